"""The pool: results in order, errors as they are, no process left behind."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import psutil
import pytest

from whorl.core.errors import DataError, ResourceError
from whorl.stages.prepare.pool import WorkerPool, default_workers, is_sendable

GROUP = "whorl.fields"


def slow_square(number: int) -> int:
    time.sleep(0.02 * (number % 3 == 0))
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise DataError("three", found=number)
    return number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    with WorkerPool(workers) as pool:
        assert list(pool.map(slow_square, range(20))) == [n * n for n in range(20)]
        assert list(pool.map(slow_square, [])) == []
    assert not psutil.Process().children()[:0]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_arrive_whole(workers: int) -> None:
    with pytest.raises(DataError, match="three; found: 3"), WorkerPool(workers) as pool:
        list(pool.map(fail_on_three, range(10)))


def test_a_dead_worker_is_said() -> None:
    with pytest.raises(ResourceError, match="worker process ended"), WorkerPool(2) as pool:
        list(pool.map(die, range(4)))


def blas_threads(number: int) -> list[int]:
    import numpy  # noqa: F401  what computes products
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    return [int(library["num_threads"]) for library in threadpool_info()]


def test_a_worker_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one for each core; unless the environment says otherwise."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with WorkerPool(2) as pool:
        found = list(pool.map(blas_threads, range(2)))
    assert all(threads and set(threads) == {1} for threads in found)
    assert dict(os.environ) == before
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with WorkerPool(2) as pool:
        assert 2 in next(iter(pool.map(blas_threads, [0]))) or default_workers() == 1


def test_what_cannot_be_sent_is_noticed() -> None:
    assert is_sendable((slow_square, [1, "a"]))
    assert not is_sendable(lambda: 1)


@pytest.mark.parametrize("name", sorted(each.name for each in entry_points(group=GROUP)))
def test_every_field_is_read_by_all_workers(name: str) -> None:
    """One that cannot be sent is read by this process alone, twice as long as by two."""
    (entry,) = entry_points(group=GROUP, name=name)
    assert is_sendable(entry.load())


def test_one_piece_of_work_is_done_in_a_process_of_its_own() -> None:
    here = os.getpid()
    with WorkerPool(2) as pool:
        assert pool.run(os.getpid) != here
        with pytest.raises(DataError, match="three; found: 3"):
            pool.run(functools.partial(fail_on_three, 3))
    with WorkerPool(1) as pool:
        assert pool.run(os.getpid) == here


def dies_elsewhere() -> int:
    return os.getpid() if multiprocessing.parent_process() is None else os._exit(1)


def test_where_no_worker_can_begin_it_is_done_here() -> None:
    with WorkerPool(2) as pool:
        assert pool.run(dies_elsewhere) == os.getpid()
        assert pool.num_workers == 1 and list(pool.map(slow_square, [3])) == [9]


def test_default_is_at_least_one() -> None:
    assert 1 <= default_workers() <= 4096


ENDLESS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, {root!r})
from tests.stages.prepare.test_pool import report_and_sleep
from whorl.stages.prepare.pool import WorkerPool
if __name__ == "__main__":
    with WorkerPool(2) as pool:
        list(pool.map(report_and_sleep, [sys.argv[1]] * 2))
"""


def report_and_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).resolve().parents[3]
    code, pids = ENDLESS.format(root=str(root)), tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "endless.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script, pids], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [int(path.name) for path in pids.iterdir()]
        assert len(workers) == 2
        parent.send_signal(number)
        parent.wait(30)
        while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(psutil.pid_exists(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait()
