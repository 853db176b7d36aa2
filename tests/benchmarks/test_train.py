"""The training benchmark's two sides do their work: one micro-batch and one update each."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("train_benchmark", folder / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    while module.KEPT:
        module.KEPT.pop().__exit__(None, None, None)


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        ("whorl_work", {"threads": 1, "lanes": 1}),
        ("peer_work", {"threads": 1, "autocast": False}),
    ],
)
def test_a_side_computes_and_updates(
    train: ModuleType, side: str, settings: dict[str, Any]
) -> None:
    gradients, update = getattr(train, side)("4x96", 2, settings)
    before = gradients()
    assert before == pytest.approx(math.log(1024), rel=0.2)  # of ids drawn evenly
    update()
    assert gradients() != before
