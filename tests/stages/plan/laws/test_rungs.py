"""Ladders: their shape, their budget, and what they say of a model that is known."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from tests.stages.plan.conftest import machine, recipe, text_facts
from whorl.core.errors import DataError, PlanError
from whorl.stages.plan.candidate import Situation, shape_of
from whorl.stages.plan.law import shipped_law
from whorl.stages.plan.laws.rungs import (
    KNEE_TOKENS,
    Rung,
    Target,
    choose_rungs,
    ladder_law,
    predict_from,
)
from whorl.stages.plan.step_time import fit_level


def situation(*overrides: str) -> Situation:
    paper = machine()
    facts = text_facts(vocab_sizes=(2048,))
    return Situation(recipe(*overrides), paper, fit_level(paper.calibration), facts, shipped_law())


def target(layers: int = 6, width: int = 192, tokens: int = 8_000_000) -> Target:
    return Target(shape_of(recipe(), layers, width, 2048, 256), 256, tokens)


@pytest.mark.parametrize("count", [4, 5])
def test_rungs_grow_below_the_planned_size_within_their_time(count: int) -> None:
    found = choose_rungs(situation(), target(), count, 900.0)
    assert len(found) == count
    sizes = [rung.parameters for rung in found]
    assert all(small < large for small, large in pairwise(sizes))
    assert sizes[-1] < target().params
    assert sum(rung.train_s for rung in found) <= 900.0
    assert {rung.shape.vocab_size for rung in found} == {2048}


def test_rungs_lie_on_a_line_that_ends_at_the_target_above_the_knee() -> None:
    found = choose_rungs(situation(), target(), 4, 600.0)
    slopes = [
        np.log(target().tokens / rung.tokens) / np.log(target().params / rung.parameters)
        for rung in found
    ]
    assert np.ptp(slopes) < 0.05  # tokens are whole batches
    assert min(rung.tokens for rung in found) == pytest.approx(KNEE_TOKENS, rel=0.01)


def test_a_short_target_is_approached_by_size_alone() -> None:
    tokens = KNEE_TOKENS // 2
    found = choose_rungs(situation(), target(tokens=tokens), 4, 600.0)
    assert all(rung.tokens == pytest.approx(tokens, rel=0.01) for rung in found)


def test_less_time_gives_smaller_rungs_then_an_error_that_says_what_is_needed() -> None:
    ample = choose_rungs(situation(), target(), 4, 600.0)
    total_s = sum(rung.train_s for rung in ample)
    tight = choose_rungs(situation(), target(), 4, 0.9 * total_s)
    assert tight[-1].parameters < ample[-1].parameters
    with pytest.raises(PlanError, match="--budget"):
        choose_rungs(situation(), target(), 4, 1.0)
    with pytest.raises(PlanError, match="too few rungs"):
        choose_rungs(situation(), target(), 3, 600.0)
    with pytest.raises(PlanError, match="smaller than the planned"):
        choose_rungs(situation(), target(1, 32), 4, 600.0)


def measured(count: int, noise: float, seed: int) -> tuple[list[Rung], float]:
    """Rungs of an independent truth, and its loss for a model four times the last one's compute."""
    params = np.geomspace(1e5, 2e6, count)
    tokens = 3e7 * (params / 1e5) ** 0.5

    def loss(n: float, d: float) -> float:
        return 0.7 + 12 / n**0.29 + 30 / d**0.3

    factor = np.exp(np.random.default_rng(seed).normal(0, noise, count))
    rungs = [
        Rung(2, 64, round(n), round(d), 6 * n * d, loss(n, d) * f)
        for n, d, f in zip(params, tokens, factor, strict=True)
    ]
    return rungs, loss(2.5 * params[-1], 1.6 * tokens[-1])


def test_a_ladder_predicts_a_known_model() -> None:
    errors, held = [], []
    for seed in range(6):
        rungs, true_loss = measured(4, 0.005, seed)
        found = predict_from(rungs, 2.5 * rungs[-1].params, 1.6 * rungs[-1].tokens, "bits/byte")
        assert found is not None and found.value and found.low and found.high
        errors.append(abs(found.value / true_loss - 1))
        held.append(found.low <= true_loss <= found.high)
    assert np.median(errors) < 0.02
    assert sum(held) >= 5
    assert found.unit == "bits/byte"


def test_short_runs_are_no_surer_than_ours_were() -> None:
    """Our runs lie 6.3% (log deviation) about a smooth law; four rungs cannot show that."""
    rungs, _ = measured(4, 0.0, 0)
    short = [dataclasses.replace(rung, tokens=rung.tokens // 20) for rung in rungs]
    for given, at_least in ((rungs, 0.0), (short, shipped_law().residual)):
        found = ladder_law(given, "bits/byte").predict(given[-1].params, given[-1].tokens)
        assert found.low is not None and found.high is not None
        width = np.log(found.high / found.low) / 2 / 1.645
        assert at_least <= width < at_least + 0.04


def test_fewer_than_three_rungs_say_nothing() -> None:
    rungs, _ = measured(4, 0.0, 0)
    assert predict_from(rungs[:2], 1e6, 1e7, "bits/byte") is None
    with pytest.raises(DataError, match="too few"):
        ladder_law(rungs[:2], "bits/byte")
