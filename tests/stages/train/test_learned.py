"""A training that learned nothing ends in an error, not in a model."""

from __future__ import annotations

import math

import pytest

from whorl.core.errors import DivergedError
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.report import check_improved, check_learned
from whorl.stages.train.trainer import StepResult

CONFIG = TrainConfig(
    seq_len=8, batch_tokens=8, micro_batch_rows=1, steps=4,
    learning_rate=1e6, embedding_learning_rate=0.3,
)  # fmt: skip
LN_400 = 5.991465


def steps(*losses: float) -> list[StepResult]:
    return [StepResult(loss, 0.1, 1.0, 8) for loss in losses]


@pytest.mark.parametrize(
    ("losses", "heldout"),
    [
        ([5.995, 14.0, LN_400, LN_400], LN_400),  # dead: every id alike
        ([5.995] * 20 + [9.0] * 20, 8.7),  # diverged, and finite
        ([5.995, 6.2], 6.1),
        ([7.4, 9.1, LN_400, LN_400, LN_400], LN_400 - 1e-4),
        ([5.99], math.nan),
        ([5.99], math.inf),
    ],
)
def test_nothing_learned(losses: list[float], heldout: float) -> None:
    with pytest.raises(DivergedError, match="learned nothing") as caught:
        check_learned(CONFIG, 400, steps(*losses), heldout)
    assert "1e+06" in str(caught.value) and "5.991" in str(caught.value)
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(
    ("losses", "heldout"),
    [
        ([5.995, 5.9], 5.92),  # two steps of a healthy training
        ([10.5, 10.4, 10.3], 10.2),  # first weights worse than uniform, and getting better
        ([5.99] * 10 + [1.0] * 40, 7.5),  # learned by heart: bad held out, but not nothing
        ([5.99, 3.0], 3.1),
    ],
)
def test_something_learned(losses: list[float], heldout: float) -> None:
    check_learned(CONFIG, 400, steps(*losses), heldout)


@pytest.mark.parametrize(
    ("heldout", "first_rows", "do"),
    [
        ((2.0, 2.0), (2.1, 2.1), "raise"),
        ((2.0, 1.999), (2.1, 2.0995), "raise"),  # within rounding
        ((2.0, 7.0), (2.1, 6.0), "lower"),
        ((2.0, math.nan), (2.1, math.nan), "raise"),
    ],
)
def test_no_better_than_its_base(
    heldout: tuple[float, float], first_rows: tuple[float, float], do: str
) -> None:
    with pytest.raises(DivergedError, match="no better than the one it began with") as caught:
        check_improved(CONFIG, 4, "nats per pair", heldout, first_rows)
    assert f"{do} train.learning_rate (1e+06)" in str(caught.value)


@pytest.mark.parametrize(
    ("heldout", "first_rows"), [((2.0, 1.9), (2.1, 2.2)), ((2.0, 2.4), (2.1, 1.2))]
)
def test_better_than_its_base(
    heldout: tuple[float, float], first_rows: tuple[float, float]
) -> None:
    """Held out, or by heart alone."""
    check_improved(CONFIG, 40, "nats per trained token", heldout, first_rows)
