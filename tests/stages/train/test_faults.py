"""Training killed, doubled and starved: what is left goes on to the same bits."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stages.train.forks import TrainingProcesses
from tests.stages.train.work import config, make_prepared, tiny_shape
from whorl.core.records import Record, RecordStore
from whorl.stages.train.run import train_key

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def processes() -> Iterator[TrainingProcesses]:
    with TrainingProcesses() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a prepared record and nothing trained."""
    folder = tmp_path_factory.mktemp("faults") / "home"
    make_prepared(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path, processes: TrainingProcesses) -> tuple[Record, float]:
    """The record of an uninterrupted run, and how long it took."""
    log = home / "log"
    code, seconds = processes.run(home, log, {})
    assert code == 0, log.read_text()
    return finished(home), seconds


@pytest.fixture
def fresh(home: Path, tmp_path: Path, whole: tuple[Record, float]) -> Path:
    """A home of this test's own; its train stage is empty."""
    own = tmp_path / "own"
    shutil.copytree(home / "tiny/prepare", own / "tiny/prepare")
    return own


def finished(home: Path, **settings: object) -> Record:
    store = RecordStore(home, "tiny")
    prepared = store.newest("prepare")
    assert prepared is not None
    record = store.find(train_key(tiny_shape(), config(**settings), prepared))
    assert record is not None
    return record


def begun(home: Path) -> bool:
    return any((home / "tiny/train").glob("*.run/metrics.jsonl"))


def test_a1_random_kills_change_no_bit(
    fresh: Path,
    whole: tuple[Record, float],
    processes: TrainingProcesses,
    trials: Callable[[int], int],
) -> None:
    """Killed at uniformly random times until enough kills have landed; every finished run equals
    the uninterrupted one in every file."""
    expected, duration_s = whole
    chooser, log = random.Random(1), fresh / "log"
    kills = resumed = runs = 0
    while kills < trials(20):
        pid = processes.start(fresh, log, {})
        time.sleep(chooser.uniform(0.0, duration_s))
        code = processes.kill(pid)
        assert code in (0, -signal.SIGKILL), log.read_text()
        kills += code != 0
        if code == 0 or kills == trials(20):
            assert processes.run(fresh, log, {})[0] == 0, log.read_text()
            assert finished(fresh).files == expected.files
            assert finished(fresh).metrics == expected.metrics
            assert not list(fresh.glob("tiny/train/*.run/checkpoints"))
            resumed += log.read_text().count("resumed at step")
            runs += 1
            shutil.rmtree(fresh / "tiny/train")
            log.write_text("")
    print(f"{kills} kills over {runs} runs, {resumed} resumed from a checkpoint")
    assert runs


def test_a18_of_two_starts_one_wins(
    fresh: Path, processes: TrainingProcesses, trials: Callable[[int], int]
) -> None:
    """Every trial but the first finds the stale lock of a winner that was killed."""
    settings = {"steps": 5000, "checkpoint_every_steps": 5000, "validate_every_steps": 5000}
    logs = [fresh / "first", fresh / "second"]
    for _ in range(trials(10)):
        pids = [processes.start(fresh, log, settings) for log in logs]
        deadline_s = time.monotonic() + 60
        while not any("BusyError" in log.read_text() for log in logs if log.exists()):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        loser = next(n for n, log in enumerate(logs) if "BusyError" in log.read_text())
        assert processes.wait(pids[loser]) == 6
        assert f"found: process {pids[1 - loser]} on " in logs[loser].read_text()
        assert processes.kill(pids[1 - loser]) == -signal.SIGKILL  # it was at work, not refused
        for log in logs:
            log.unlink(missing_ok=True)


@pytest.mark.parametrize("number", list(SIGNALS))
def test_signals_save_and_go_on_to_the_same_bits(
    fresh: Path,
    whole: tuple[Record, float],
    processes: TrainingProcesses,
    trials: Callable[[int], int],
    number: int,
) -> None:
    """A signal at a random time: work saved, or done already; then on to the same bits."""
    expected, duration_s = whole
    chooser, log = random.Random(number), fresh / "log"
    for _ in range(trials(3)):
        pid = processes.start(fresh, log, {})
        while not begun(fresh) and processes_alive(pid):
            time.sleep(0.002)
        time.sleep(chooser.uniform(0.0, 0.3 * duration_s))
        code = processes.kill(pid, number)
        text = log.read_text()
        assert code in (0, SIGNALS[number]), text
        assert code == 0 or "saved at step" in text or "was finished" in text
        assert processes.run(fresh, log, {})[0] == 0
        assert finished(fresh).files == expected.files
        shutil.rmtree(fresh / "tiny/train")
        log.write_text("")


def processes_alive(pid: int) -> bool:
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_full_disk_leaves_the_last_checkpoint(
    fresh: Path, whole: tuple[Record, float], processes: TrainingProcesses
) -> None:
    """A limit on the size of files stands for the full disk: the weights no longer fit."""
    log = fresh / "log"
    pid = processes.start(fresh, log, {})
    while not list(fresh.glob("tiny/train/*.run/checkpoints/step-*")):
        assert processes_alive(pid), log.read_text()
        time.sleep(0.001)
    if processes.kill(pid) == 0:
        pytest.skip("the run was over before it could be stopped")
    before = sorted(fresh.glob("tiny/train/*.run/checkpoints/step-*"))
    code, _ = processes.run(fresh, log, {}, limit_bytes=100_000)
    text = log.read_text()
    assert code == 7 and "resumed at step" in text, text
    assert "ResourceError: cannot write" in text and "bytes" in text
    assert sorted(fresh.glob("tiny/train/*.run/checkpoints/*")) == before
    assert processes.run(fresh, log, {})[0] == 0
    assert finished(fresh).files == whole[0].files
