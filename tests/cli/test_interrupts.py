"""Signals at any moment: one line, exit 128 + number, one document of --json, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.processes import start_whorl

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
OBEYED_S = 2.0  # promised; a test on a shared machine waits this many times as long
SLACK = 5

# A command whose work is `body`, run as main() runs commands.
COMMAND = """
import sys, time, os, subprocess, tempfile
from pathlib import Path
from whorl.cli.interrupts import Interrupts
interrupts = Interrupts()
interrupts.install()
from whorl.cli import main as cli
from whorl.core.scratch import hold_scratch
class App:
    def __call__(self, **options):
        folder = Path(sys.argv[1])
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        scratch, _ = hold_scratch(folder / "record")
        (scratch / "half").write_text("x")
        print("working", file=sys.stderr, flush=True)
{body}
cli.build_app = lambda command: App()
cli.main(interrupts)
"""
BODIES = {
    "Python": "        while True: time.sleep(0.01)",
    "native code that never returns": """
        import ctypes, threading
        lock = threading.Lock()
        ctypes.CDLL(None).pause()
        while True: ctypes.CDLL(None).pause()""",
    "a library that takes it for an error of its own": """
        try:
            time.sleep(600)
        except BaseException as error:
            raise RuntimeError("something in a library") from error""",
    "a library that swallows it": """
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass""",
    "a clean-up that hangs": """
        try:
            time.sleep(600)
        finally:
            time.sleep(600)""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("body", BODIES)
def test_whatever_runs_is_stopped(tmp_path: Path, body: str, number: signal.Signals) -> None:
    code = COMMAND.format(body=BODIES[body])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None and process.stderr.readline() == b"working\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert children and any(tmp_path.glob("record.tmp-*/half"))
    begin_s = time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin_s < OBEYED_S * SLACK
    assert process.returncode == 128 + number, errors
    assert errors.count(b"\n") == 1 and errors.startswith(b"error: stopped by "), errors
    assert json.loads(out)["error"]["exit_code"] == 128 + number
    assert os.listdir(tmp_path) == []
    assert not any(child.is_running() and child.status() != "zombie" for child in children)


@pytest.mark.parametrize("number", SIGNALS)
def test_from_the_first_import_on(tmp_path: Path, number: signal.Signals) -> None:
    """Stopped as each module of the command is looked for, from the second one of ours on."""
    code = f"""
import os, sys
class Stop:
    count = 0
    def find_spec(self, name, path=None, target=None):
        if "signal_handler" in globals() or name.startswith(("typer", "rich", "psutil", "whorl.")):
            Stop.count += 1
            if Stop.count == int(sys.argv[1]):
                os.kill(os.getpid(), {int(number)})
from whorl.cli.interrupts import Interrupts
sys.meta_path.insert(0, Stop())
from whorl.__main__ import main
main()
"""
    seen = 0
    for count in (2, 3, 5, 10, 20, 40):
        done = subprocess.run(
            [sys.executable, "-c", code, str(count), "ls", "--json"],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "WHORL_HOME": str(tmp_path / "runs")},
        )
        if done.returncode == 128 + number:
            seen += 1
            assert done.stderr.count(b"\n") == 1, done.stderr
            assert json.loads(done.stdout)["error"]["exit_code"] == 128 + number
    assert seen >= 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_prepare_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """To the whole group, as a terminal sends it, while workers start and work."""
    (tmp_path / "notes").mkdir()
    for index in range(40):
        text = "\n".join(f"line {index} of {line} with words" * 3 for line in range(60))
        (tmp_path / "notes" / f"{index}.txt").write_text(text)
    recipe = "name: r\ndata: [{source: notes, field: text}]\n"
    (tmp_path / "r.yaml").write_text(
        f"{recipe}prepare: {{vocab_size: 400}}\ntrain: {{seq_len: 32}}\n"
    )
    for wait_s in (0.3, 0.6, 0.9):
        process = start_whorl(
            *("prepare", "r.yaml", "--workers", "2", "--json"),
            cwd=tmp_path,
            start_new_session=True,
        )
        time.sleep(wait_s)
        os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        if process.returncode == 128 + number:
            assert sum(line.startswith(b"error") for line in errors.splitlines()) == 1
            assert json.loads(out)["error"]["exit_code"] == 128 + number
        with pytest.raises(ProcessLookupError):
            for _ in range(100):  # the tracker of Python's own pools ends a moment later
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        left = [path for path in tmp_path.glob("runs/r/*/*") if ".tmp-" in path.name]
        assert left == [] and not any(tmp_path.glob("runs/r/prepare/*.run/spill-*"))


def test_the_end_of_a_command_waits_for_python_not_for_native_libraries(tmp_path: Path) -> None:
    """Clean-ups of Python's run; what libraries take apart after them, C's `atexit`, does not."""
    code = """
import atexit, ctypes, pathlib, sys
from whorl.cli import main as cli
from whorl.__main__ import main
class App:
    def __call__(self, **options):
        atexit.register(pathlib.Path(sys.argv[1]).touch)
        print("told")
        return 3
cli.build_app = lambda command: App()
hang = ctypes.CFUNCTYPE(None)(lambda: ctypes.CDLL(None).pause())
ctypes.CDLL(None).__cxa_atexit(hang, None, None)
main()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "touched")]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"told\n", b"")
    assert (tmp_path / "touched").exists()
