"""Processes that whorl starts end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

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


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_children_do_not_hear_ctrl_c_while_they_start() -> None:
    done = subprocess.run([sys.executable, "-c", MASKED], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
