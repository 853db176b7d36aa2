"""apertium, the method beside translation, where it is installed with the languages' data.

Forcada et al. 2011 (https://doi.org/10.1007/s10590-011-9090-0): rules and dictionaries.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from shutil import which

from whorl.core.errors import DataError

__all__ = ["INSTALL", "PROGRAM", "apertium", "is_there", "mode_of"]

PROGRAM = "apertium"
INSTALL = "apt-get install apertium, and the pair's data, such as apertium-eng-spa"
LIMIT_S = 600
BETWEEN = "\n\n"  # texts: its format of lines loses the dots at their ends
THREE_LETTERS = {  # of codes that its modes have, ISO 639-3; older ones have two letters
    **{"ca": "cat", "de": "deu", "en": "eng", "eo": "epo", "es": "spa", "fr": "fra", "gl": "glg"},
    **{"it": "ita", "nl": "nld", "pt": "por", "ro": "ron", "ru": "rus", "sv": "swe", "uk": "ukr"},
}


def is_there() -> bool:
    return which(PROGRAM) is not None


def mode_of(source: str, target: str) -> str | None:
    """Its name of a direction; None: it is not installed, or has no data of it."""
    if not is_there():
        return None
    try:
        listed = subprocess.run([PROGRAM, "-l"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    wanted = (
        "-".join(THREE_LETTERS.get(code, code) for code in (source, target)),
        f"{source}-{target}",
    )
    return next((mode for mode in wanted if mode in listed.split()), None)


def apertium(mode: str, texts: Sequence[str]) -> list[str]:
    """Each text translated, unknown words as they are. Raises DataError if it fails."""
    apart = BETWEEN.join([*(" ".join(text.split()) for text in texts), ""])
    try:
        done = subprocess.run(
            [PROGRAM, "-u", mode],
            input=apart.encode(),
            check=True,
            capture_output=True,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError("apertium failed", found=error) from error
    found = done.stdout.decode("utf-8", "replace").split(BETWEEN)
    if len(found) < len(texts):
        raise DataError("apertium gave fewer texts", found=len(found), expected=len(texts))
    return [text.strip() for text in found[: len(texts)]]
