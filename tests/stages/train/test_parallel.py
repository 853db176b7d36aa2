"""Two processes that share a training give the numbers of one, and each other's checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stages.train import ranks as ranks_module
from tests.stages.train.work import make_prepared
from whorl.stages.train.parallel.alone import Alone

STEPS = 20
# Rates at which rounding does not grow within 20 steps.
RATES = {"learning_rate": 0.004, "embedding_learning_rate": 0.002, "norm_learning_rate": 0.002}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prepared(tmp_path_factory.mktemp("data")).path


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one rank that nobody stopped, with the optimiser of most trainings."""
    home = tmp_path_factory.mktemp("alone")
    train(home, prepared, 1)
    return losses(home)


def train(home: Path, prepared: Path, ranks: int, stop_at: int = 0, **settings: Any) -> None:
    """One rank in this process, several in processes of their own."""
    given = {
        "home": str(home),
        "prepared": str(prepared),
        "stop_at": stop_at,
        "settings": {"steps": STEPS, "micro_batch_rows": 1, "threads": 1, **RATES, **settings},
    }
    if ranks == 1:
        assert ranks_module.train(given, Alone()) == bool(stop_at)
        return
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    words = [*launcher, "tests.stages.train.ranks", json.dumps(given)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", *words],
        cwd=root,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},  # of the ranks: a crash says where
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("stopped" in done.stdout) == bool(stop_at)


def losses(home: Path) -> list[float]:
    (file,) = (home / "tiny" / "train").glob("*/loss.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_ranks_learn_what_one_learns(
    optimizer: str, prepared: Path, alone: list[float], tmp_path: Path
) -> None:
    one = alone
    if optimizer != "muon":
        train(tmp_path / "1", prepared, 1, optimizer=optimizer)
        one = losses(tmp_path / "1")
    train(tmp_path / "2", prepared, 2, optimizer=optimizer)
    assert len(one) == STEPS and one[-1] < one[0]
    assert losses(tmp_path / "2") == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_they_resume_each_other(
    first: int, second: int, prepared: Path, alone: list[float], tmp_path: Path
) -> None:
    train(tmp_path, prepared, first, stop_at=9)
    assert not list((tmp_path / "tiny" / "train").glob("*/loss.jsonl"))
    train(tmp_path, prepared, second)
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-5)
