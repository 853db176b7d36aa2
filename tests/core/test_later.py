"""What a function in a thread of its own returned or raised."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from whorl.core.later import later, with_result

AT_THE_END = """
import time
from whorl.core.later import later
later(time.sleep, 600)
"""


def test_the_caller_goes_on() -> None:
    may_end = threading.Event()

    def add(left: int, right: int) -> int:
        assert may_end.wait(20) and threading.current_thread() is not threading.main_thread()
        return left + right

    found = later(add, 2, right=3)
    assert not found.done()
    may_end.set()
    assert found.result(20) == 5


def test_what_it_raises_is_raised_where_it_is_asked() -> None:
    found = later(int, "none")
    with pytest.raises(ValueError, match="none"):
        found.result(20)


def test_a_result_is_given_on_when_it_is_there() -> None:
    may_end, given = threading.Event(), list[int]()
    for function in (lambda: may_end.wait(20) and 7, lambda: may_end.wait(20) and int("none")):
        with_result(later(function), given.append)
    assert given == []
    may_end.set()
    with_result(later(lambda: 8), given.append)
    deadline = time.monotonic() + 20
    while len(given) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(given) == [7, 8]


def test_no_process_waits_for_it_at_its_end() -> None:
    assert subprocess.run([sys.executable, "-c", AT_THE_END], timeout=60).returncode == 0
