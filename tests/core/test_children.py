"""Processes that whorl starts end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import os, subprocess, sys, time
child = f'''
import subprocess, sys, time
from whorl.core.children import end_with_parent
end_with_parent({os.getpid()})
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(inner.pid, flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print(process.pid, flush=True)
time.sleep(600)
"""

STARTER = """
import signal, sys, time
from whorl.core.children import start_child
child = start_child("odd_part:answer")
child.stdin.write("a question\\n")
child.stdin.flush()
print(child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""
ODD_PART = """
import os, signal, sys, time
def answer():
    heard = signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    is_leader = os.getpgrp() == os.getpid()
    print(os.getpid(), sys.stdin.readline().strip(), heard, is_leader, flush=True)
    time.sleep(600)  # also where its input ends
"""

MASKED = """
import os, signal, subprocess, sys
from whorl.core.children import spawning
code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
with spawning():
    inside = subprocess.check_output([sys.executable, "-c", code], text=True)
outside = subprocess.check_output([sys.executable, "-c", code], text=True)
print(inside.strip(), outside.strip())
"""


def test_children_and_theirs_notice_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_child_finds_the_same_modules_and_ends_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "odd_part.py").write_text(ODD_PART)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{STARTER}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        pid, *told = one.stdout.readline().split()
        assert told == ["a", "question", "False", "True"]  # Ctrl-C is the parent's
        one.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(pid))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_children_do_not_hear_ctrl_c_while_they_start() -> None:
    done = subprocess.run([sys.executable, "-c", MASKED], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
