"""Training processes to kill: a server that has imported torch once forks one per job.

The server reads one JSON job a line from its standard input and answers one line each:
{"do": "start", "home": …, "log": …, "settings": {…}, "limit_bytes": null} -> the child's pid
{"do": "wait", "pid": …} -> its exit code, negative for the signal that ended it
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.policy.conftest import ROOT


class TrainingProcesses:
    """Client of the server below."""

    def __enter__(self) -> TrainingProcesses:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.stages.train.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running: set[int] = set()
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pid in list(self._running):
            self.kill(pid)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(
        self, home: Path, log: Path, settings: dict[str, Any], limit_bytes: int | None = None
    ) -> int:
        """Begin training there; lines of the log and the error go to `log`."""
        job = {"do": "start", "home": str(home), "log": str(log), "settings": settings}
        pid = self._ask({**job, "limit_bytes": limit_bytes})
        self._running.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Exit code; negative: the signal that ended it."""
        self._running.discard(pid)
        return self._ask({"do": "wait", "pid": pid})

    def kill(self, pid: int, number: int = signal.SIGKILL) -> int:
        os.kill(pid, number)
        return self.wait(pid)

    def run(self, *arguments: Any, **keywords: Any) -> tuple[int, float]:
        """Start and wait: (exit code, seconds)."""
        begin_s = time.monotonic()
        code = self.wait(self.start(*arguments, **keywords))
        return code, time.monotonic() - begin_s

    def _ask(self, job: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return self._read()

    def _read(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def child(job: dict[str, Any]) -> int:
    """Train as the job says; the exit code of the command line."""
    from tests.stages.train.work import train
    from whorl.core.errors import WhorlError
    from whorl.core.records import RecordStore

    if job["limit_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit_bytes"], job["limit_bytes"]))
    with open(job["log"], "a", encoding="utf-8", buffering=1) as log:
        try:
            home = Path(job["home"])
            prepared = RecordStore(home, "tiny").newest("prepare")
            assert prepared is not None
            train(home, prepared, job["settings"], lambda line: print(line, file=log))
        except WhorlError as error:
            print(f"{type(error).__name__}: {error}", file=log)
            return error.exit_code
    return 0


def serve() -> None:
    import torch

    import tests.stages.train.work  # noqa: F401
    import whorl.stages.train.run as train_run

    torch.set_num_threads(1)  # before anything runs: a fork must not inherit OpenMP's threads
    # The picture takes longer than such a run and is no part of what must come out equal.
    train_run._draw = lambda session: None
    print(0, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "wait":
            _, status = os.waitpid(job["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = child(job)
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
