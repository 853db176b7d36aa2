"""The engine's process begins with the command, where the command will ask for one."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from whorl.cli.early import begin_engine, is_served_at_once
from whorl.core.children import EARLY

ENTRY = "whorl.engines.answering:answer_soon"


@pytest.mark.parametrize(
    "words",
    [
        "serve mine",
        "serve mine@3 --port 8080",
        "serve ./mine --variant int8 --replicas 2 --home runs",
        "serve --port=0 mine --set serve.users=4",
    ],
)
def test_of_a_model_that_is_there(words: str) -> None:
    assert is_served_at_once(words.split())


@pytest.mark.parametrize(
    "words",
    [
        "",
        "serve",
        "train serve",
        "up mine.yaml",
        "serve mine.yaml",
        "serve --port 0 mine.yml",
        "serve mine --dry-run",
        "serve mine --emit systemd",
        "serve --help",
        "serve mine --engine torch",
        "serve mine --engine=vllm",
        "serve mine --set serve.engine=torch",
        "serve mine --where ray",
        "serve mine --set serve.where=ray",
    ],
)
def test_of_no_other(words: str) -> None:
    assert not is_served_at_once(words.split())


def _early_children(pid: int) -> list[psutil.Process]:
    """Children of this process, also where it has ended: its number is in their command."""
    found = []
    for each in psutil.process_iter():
        try:
            if each.cmdline()[-2:] == [str(pid), ENTRY]:
                found.append(each)
        except psutil.Error:
            continue
    return found


def _begun(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A command that finds no model, as soon as it has a child."""
    process = subprocess.Popen(
        [sys.executable, "-m", "whorl", "serve", "nothing-of-this-name", "--home", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 30
    seen: list[psutil.Process] = []
    while not seen and process.poll() is None and time.monotonic() < deadline:
        seen = _early_children(process.pid)
    assert seen, "it was never begun"
    return process, seen


def test_one_that_nobody_asks_ends_and_says_nothing(tmp_path: Path) -> None:
    process, seen = _begun(tmp_path)
    out, err = process.communicate(timeout=60)  # until its child, too, has closed its errors
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: there is no model") and err.count("\n") == 1
    psutil.wait_procs(seen, timeout=30)
    assert not _early_children(process.pid)


def test_it_ends_with_a_command_that_is_stopped_while_modules_load(tmp_path: Path) -> None:
    process, seen = _begun(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "error: stopped by Ctrl-C\n")
    psutil.wait_procs(seen, timeout=30)
    assert not _early_children(process.pid)


def test_where_none_can_be_begun_the_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked for more than it gives; who needs an engine is told later."""

    def refused(*command: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    begin_engine(["serve", "mine"])
    assert not EARLY


def test_a_servers_small_products_are_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's: a second one would spin beside the engine's. Other commands keep theirs."""
    script = (
        "import sys; from whorl.cli.early import begin_engine; begin_engine(sys.argv[1:]);"
        "import numpy, os; from threadpoolctl import threadpool_info;"
        "print('OPENBLAS_NUM_THREADS' in os.environ, threadpool_info()[0]['num_threads'])"
    )
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    commands = {"serve mine": "True 1", "serve mine --dry-run": "False ", "plan": "False "}
    for command, expected in commands.items():
        done = subprocess.run(
            [sys.executable, "-c", script, *command.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(expected)
