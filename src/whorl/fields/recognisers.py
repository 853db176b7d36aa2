"""pocketsphinx, the method beside speech recognition, where it is installed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["absent", "is_there", "pocketsphinx"]

PACKAGE = "pocketsphinx"
ABSENT = f"{PACKAGE} is not installed: pip install {PACKAGE} puts it beside the model"
RATE = 16_000
SILENCE_S = 0.2  # before and behind: it expects some


def is_there() -> bool:
    return find_spec(PACKAGE) is not None


def absent() -> str:
    """How to install it; "" where it is there."""
    return "" if is_there() else ABSENT


def pocketsphinx(
    sounds: Iterable[tuple[NDArray[np.int16], int]], words: Sequence[str] = ()
) -> list[str]:
    """What it hears in sounds of (samples, rate), by its own model of US English.

    words: any of them in any order, if its dictionary has them, and no others.
    """
    import soxr
    from pocketsphinx import Decoder

    decoder: Any = Decoder(samprate=RATE, loglevel="FATAL")
    if words:
        known = [word for word in dict.fromkeys(words) if decoder.lookup_word(word) is not None]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "words.lm")
            path.write_text(_unigrams(known), encoding="utf-8")
            decoder.add_lm_file("words", str(path))
        decoder.activate_search("words")
    heard = []
    for samples, rate in sounds:
        silence = np.zeros(int(SILENCE_S * RATE), np.int16)
        sound = soxr.resample(samples, rate, RATE)
        decoder.start_utt()
        decoder.process_raw(np.concatenate([silence, sound, silence]).tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        heard.append("" if found is None else str(found.hypstr))
    return heard


def _unigrams(words: Sequence[str]) -> str:
    """A model in ARPA's format in which all words, and the end, are as likely."""
    entries = ["</s>", *words]
    chance = -math.log10(len(entries))
    lines = [f"{chance:.4f} {word}" for word in entries]
    count = len(entries) + 1
    return "\n".join(
        ["\\data\\", f"ngram 1={count}", "", "\\1-grams:", "-99 <s>", *lines, "", "\\end\\", ""]
    )
