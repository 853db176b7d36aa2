"""Two processes that share a training give the numbers of one, and each other's checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stages.train.work import make_prepared

STEPS = 20
# Rates at which rounding does not grow within 20 steps.
RATES = {"learning_rate": 0.004, "embedding_learning_rate": 0.002, "norm_learning_rate": 0.002}


def train(home: Path, prepared: Path, ranks: int, stop_at: int = 0, **settings: Any) -> None:
    given = {
        "home": str(home),
        "prepared": str(prepared),
        "ranks": ranks,
        "stop_at": stop_at,
        "settings": {"steps": STEPS, "micro_batch_rows": 1, "threads": 1, **RATES, **settings},
    }
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    words = [*(launcher if ranks > 1 else []), "tests.stages.train.ranks", json.dumps(given)]
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
def test_two_ranks_learn_what_one_learns(optimizer: str, tmp_path: Path) -> None:
    prepared = make_prepared(tmp_path / "data").path
    found = {}
    for ranks in (1, 2):
        home = tmp_path / str(ranks)
        train(home, prepared, ranks, optimizer=optimizer)
        found[ranks] = losses(home)
    assert len(found[1]) == STEPS
    assert found[2] == pytest.approx(found[1], rel=1e-5)
    assert found[1][-1] < found[1][0]


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_they_resume_each_other(first: int, second: int, tmp_path: Path) -> None:
    prepared = make_prepared(tmp_path / "data").path
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    train(whole, prepared, 1)
    train(mixed, prepared, first, stop_at=9)
    assert not list((mixed / "tiny" / "train").glob("*/loss.jsonl"))
    train(mixed, prepared, second)
    assert losses(mixed) == pytest.approx(losses(whole), rel=1e-5)
