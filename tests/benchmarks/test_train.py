"""The training benchmark's two sides do their work: one micro-batch and one update each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import train


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    while train.KEPT:
        train.KEPT.pop().__exit__(None, None, None)


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        ("whorl_work", {"threads": 1, "lanes": 1}),
        ("peer_work", {"threads": 1, "autocast": False}),
    ],
)
def test_a_side_computes_and_updates(side: str, settings: dict[str, Any]) -> None:
    gradients, update = getattr(train, side)("4x96", 2, settings)
    before = gradients()
    assert before == pytest.approx(math.log(1024), rel=0.2)  # of ids drawn evenly
    update()
    assert gradients() != before
