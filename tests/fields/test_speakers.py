"""A voice that fails, or is gone, is an error at once."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

import pytest

from whorl.core.children import start_child
from whorl.core.errors import DataError
from whorl.fields import speakers


def serve_badly() -> None:
    """A child whose library fails, for the second word by raising."""

    def say(text: str, voice: speakers.Speaker) -> bytes:
        if text == "broken":
            raise RuntimeError("no such voice")
        return text.encode() * 2

    speakers._open = lambda: say
    speakers.serve()


def end_at_once() -> None:
    """A child that is gone before it is asked."""


@pytest.mark.parametrize("function", ["serve_badly", "end_at_once"])
def test_a_sentence_that_cannot_be_said_is_an_error_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(speakers, "_loader", lambda: None)
    child: list[Any] = []

    def start(_: str) -> Any:
        child.append(start_child(f"{__name__}:{function}", stderr=subprocess.DEVNULL))
        if function == "end_at_once":
            child[0].wait()
        timer = threading.Timer(60, child[0].kill)  # a parent that waits fails then
        timer.daemon = True
        timer.start()
        return child[0]

    monkeypatch.setattr(speakers, "start_child", start)
    voice, heard, start_s = speakers.Speaker("en", "x", 170, 50), [], time.monotonic()
    with pytest.raises(DataError, match="could not say a sentence"):
        for samples in speakers.spoken([("ab", voice), ("broken", voice), ("cd", voice)]):
            heard.append(samples.tobytes())
    assert heard == ([b"abab"] if function == "serve_badly" else [])
    assert time.monotonic() - start_s < 50 and child[0].returncode is not None
