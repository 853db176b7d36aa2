"""Training in a process of its own: the same bytes, signals obeyed, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from whorl.codecs import bpe
from whorl.codecs.text import SPECIAL_TOKENS
from whorl.core.errors import DataError, ResourceError

TEXTS = ["The whorl of a shell grows by one turn at a time.\n" * 5, "贝壳 ^^^^ 👩‍👩‍👧 \r\n", ""]
LONG = """
import random, sys
from whorl.codecs.text import train_text_codec
chooser = random.Random(0)
def words():
    for _ in range(200):
        yield "".join(chooser.choices("abcdefghijklmnopqrstuvwxyz ", k=60_000))
        print("fed", flush=True)
if __name__ == "__main__":
    train_text_codec(words(), 30_000)
"""


def in_another_process(monkeypatch: pytest.MonkeyPatch, *texts: str) -> bytes:
    monkeypatch.setattr(bpe, "HERE_CHARS", 0)
    return bpe.train_bpe(texts, 300, SPECIAL_TOKENS)


def test_another_process_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = bpe.train_bpe(TEXTS, 300, SPECIAL_TOKENS)
    assert in_another_process(monkeypatch, *TEXTS) == here
    assert bpe.train_bpe([], 300, SPECIAL_TOKENS) != here


@pytest.mark.parametrize(
    "child",
    ["import os; os.kill(os.getpid(), 9)", "import sys; sys.exit('no room')", "print(end='')"],
)
def test_a_process_that_ends_early_is_said(monkeypatch: pytest.MonkeyPatch, child: str) -> None:
    before = psutil.Process().children()
    monkeypatch.setattr(bpe, "CHILD", child)
    with pytest.raises(ResourceError, match="ended before its work"):
        in_another_process(monkeypatch, "x" * 200_000, "y" * 200_000)
    assert psutil.Process().children() == before


def test_an_error_of_the_texts_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().children()

    def texts() -> Iterator[str]:
        yield "one"
        raise DataError("no second text")

    monkeypatch.setattr(bpe, "HERE_CHARS", 0)
    with pytest.raises(DataError, match="no second text"):
        bpe.train_bpe(texts(), 300, SPECIAL_TOKENS)
    assert psutil.Process().children() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("fed", [30, 200])  # amid the texts, and while merges are found
def test_signals_are_obeyed(tmp_path: Path, number: signal.Signals, fed: int) -> None:
    """Whatever ends the process ends its helper, within two seconds."""
    script = tmp_path / "long.py"
    script.write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    for _ in range(fed):
        assert process.stdout.readline() == b"fed\n"
    helpers = psutil.Process(process.pid).children()
    begin = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=2) != 0
    gone, alive = psutil.wait_procs(helpers, timeout=begin + 2 - time.monotonic())
    assert len(gone) == 1 and not alive
    process.stdout.close()
