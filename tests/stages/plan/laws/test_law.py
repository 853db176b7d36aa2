"""Laws against published figures, brute force over grids and conservation laws."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.laws.allocate import lifetime_optimum, optimum, tokens_for
from whorl.stages.plan.laws.effective import (
    effective_tokens,
    with_repetition,
)
from whorl.stages.plan.laws.law import PowerLaw
from whorl.stages.plan.laws.named import find_law, law_names

CHINCHILLA_FLOPS = 5.76e23  # Hoffmann et al. 2022: 70B parameters, 1.4T tokens
SARDANA = PowerLaw(  # constants of Sardana et al. 2023
    name="sardana",
    source="2401.00448",
    theta=(math.log(406.4), math.log(410.7), math.log(1.69), 0.336, 0.283),
)


def brute_force(law: PowerLaw, flops: float) -> tuple[float, float]:
    """(parameters, loss) of the best of 20,001 sizes, losses summed by hand."""
    params = np.geomspace(1e5, 1e14, 20_001)
    tokens = flops / 6 / params
    a, b, e, alpha, beta = law.theta
    learned = math.exp(a) / params**alpha + math.exp(b) / tokens**beta
    losses = math.exp(e) + learned**law.gamma
    best = int(losses.argmin())
    return float(params[best]), float(losses[best])


@pytest.mark.parametrize("name", ["chinchilla", "hoffmann", "kaplan", "steplaw-dense"])
@pytest.mark.parametrize("flops", [1e19, 1e22, 1e25])
def test_optimum_is_that_of_a_grid(name: str, flops: float) -> None:
    law = find_law(name)
    params, tokens = law.optimal(flops)
    best_params, best_loss = brute_force(law, flops)
    assert params == pytest.approx(best_params, rel=2e-3)
    assert 6 * params * tokens == pytest.approx(flops)
    assert law.loss(params, tokens) == pytest.approx(best_loss, rel=1e-7)


def test_figures_of_besiroglu_et_al() -> None:
    """2404.10102: about 20 tokens per parameter at Chinchilla's compute; N grows as C^0.513."""
    law = find_law()
    params, tokens = law.optimal(CHINCHILLA_FLOPS)
    assert 15 < tokens / params < 30
    growth = math.log(law.optimal(100 * CHINCHILLA_FLOPS)[0] / params) / math.log(100)
    assert growth == pytest.approx(0.513, abs=0.001)
    assert law.loss(1e30, 1e30) == pytest.approx(1.8172, abs=1e-4)


def test_hoffmann_puts_chinchilla_where_besiroglu_et_al_criticise_it() -> None:
    """Its approach 3 gives 40B parameters at Gopher's compute (table 3), unlike 67B and 63B."""
    params, _ = find_law("hoffmann").optimal(5.76e23)
    assert params == pytest.approx(40e9, rel=0.15)


def test_kaplan_without_limits_gives_its_two_single_laws() -> None:
    """Table 2 of 2001.08361: L(N) at infinite data, L(D) at infinite size."""
    law = find_law("kaplan")
    assert law.loss(1e9, 1e40) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)
    assert law.loss(1e60, 1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103, rel=1e-6)
    assert law.predict(1e9, 1e10).low is None


def test_intervals_hold_the_value_and_widen_with_distance() -> None:
    law = find_law()
    widths = []
    for flops in (1e21, 1e23, 1e25):
        found = law.predict(*law.optimal(flops))
        assert found.low is not None and found.high is not None and found.value is not None
        assert found.low < found.value < found.high
        widths.append(found.high / found.low)
    assert all(near < far for near, far in pairwise(widths))


@pytest.mark.parametrize("name", sorted(law_names()))
def test_every_named_law_is_sane(name: str) -> None:
    law = find_law(name)
    assert law.name == name and law.source
    assert law.loss(1e9, 1e11) > law.loss(2e9, 1e11) > law.loss(2e9, 4e11)


def test_unknown_law_is_named_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean chinchilla"):
        find_law("chinchila")


@pytest.mark.parametrize(("params", "tokens"), [(0, 1e9), (-1, 1e9), (1e9, math.inf)])
def test_nonsense_is_refused(params: float, tokens: float) -> None:
    with pytest.raises(PlanError, match="above zero"):
        find_law().loss(params, tokens)


# ------------------------------------------------------------------ repetition and precision


def test_four_epochs_are_nearly_as_good_as_fresh_and_forty_saturate() -> None:
    """2305.16264: up to 4 epochs nearly as good as new; by 40 repeating is worth nothing."""
    assert effective_tokens(4e9, 1e9) / 4e9 == pytest.approx(0.93, abs=0.02)
    assert effective_tokens(1e9, 1e9) == effective_tokens(1e9, 9e9) == 1e9
    gained = effective_tokens(60e9, 1e9) - effective_tokens(40e9, 1e9)
    assert gained / 20e9 < 0.05
    assert effective_tokens(1e30, 1e9) == pytest.approx(16.387756e9)


def test_repetition_leaves_the_law_alone_where_data_is_plenty() -> None:
    law = find_law()
    plenty = with_repetition(law, 1e18)
    assert plenty.loss(7e9, 140e9) == pytest.approx(law.loss(7e9, 140e9))
    assert plenty.optimal(1e22) == pytest.approx(law.optimal(1e22), rel=1e-3)


def test_scarce_data_calls_for_a_smaller_model_and_more_epochs() -> None:
    """Muennighoff et al. 2023, section 6: beyond what is fed, epochs scale faster than size."""
    law, flops = find_law(), 1e23
    params, tokens = law.optimal(flops)
    scarce = with_repetition(law, tokens / 20)
    fewer, more = scarce.optimal(flops)
    assert fewer < params and more > tokens
    assert scarce.loss(fewer, more) > law.loss(params, tokens)
    assert scarce.loss(fewer, more) <= scarce.loss(params, tokens)
    drawn = scarce.optimal_draws(flops)
    assert drawn.shape[1] == 2 and np.allclose(6 * drawn.prod(axis=1), flops)


# ------------------------------------------------------------------ budgets


def test_the_best_size_spends_its_budget_and_says_how_sure_it_is() -> None:
    params, tokens = optimum(CHINCHILLA_FLOPS, find_law())
    for figure in (params, tokens):
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert 0 < figure.low <= figure.value <= figure.high
    assert params.value is not None and tokens.value is not None
    assert 6 * params.value * tokens.value == pytest.approx(CHINCHILLA_FLOPS)
    assert params.low is not None and params.high is not None
    assert params.low < 70e9 < params.high  # as Chinchilla was made


# ------------------------------------------------------------------ serving over a life


def test_figure_of_sardana_et_al() -> None:
    """2401.00448, figure 1: serving 2T tokens at the quality of a 13B model, 7B saves 17%."""
    loss = optimal_loss_of(13e9)
    thirteen, seven = (cost(n, loss, 2e12) for n in (13e9, 7e9))
    assert thirteen - seven == pytest.approx(1.7e22, rel=0.01)
    assert 1 - seven / thirteen == pytest.approx(0.17, abs=0.005)
    found = lifetime_optimum(loss, 2e12, SARDANA)
    assert found.saved_share == pytest.approx(0.17, abs=0.01)
    assert found.params == pytest.approx(7e9, rel=0.1)
    assert found.compute_optimal_params == pytest.approx(13e9, rel=0.01)


def optimal_loss_of(params: float) -> float:
    """Loss of a size with the tokens for which it is compute-optimal: both terms' slopes meet."""
    tokens = (0.283 * 410.7 / (0.336 * 406.4) * params**0.336) ** (1 / 0.283)
    return SARDANA.loss(params, tokens)


def cost(params: float, loss: float, served: float) -> float:
    """Sardana et al.'s objective with the tokens solved for by hand."""
    left = loss - 1.69 - 406.4 / params**0.336
    return 6 * params * (410.7 / left) ** (1 / 0.283) + 2 * params * served


@pytest.mark.parametrize("served", [0.0, 1e11, 1e13, 1e15])
def test_lifetime_optimum_is_that_of_a_grid(served: float) -> None:
    loss = 2.1
    smallest = (406.4 / (loss - 1.69)) ** (1 / 0.336)
    costs = [cost(params, loss, served) for params in smallest * np.geomspace(1.001, 1e3, 20_001)]
    found = lifetime_optimum(loss, served, SARDANA)
    assert found.training_flops + found.serving_flops == pytest.approx(min(costs), rel=1e-5)
    assert found.saved_share >= -1e-9
    assert SARDANA.loss(found.params, found.tokens) == pytest.approx(loss, rel=1e-6)


def test_lifetime_limits() -> None:
    assert math.isinf(tokens_for(SARDANA, 1e6, 2.0))
    with pytest.raises(PlanError, match=r"no size has a loss of 1\.5"):
        lifetime_optimum(1.5, 1e12, SARDANA)
    with pytest.raises(PlanError, match="must not be negative"):
        lifetime_optimum(2.1, -1, SARDANA)


def test_shipped_fits_are_complete() -> None:
    path = resources.files("whorl.stages.plan") / "published" / "scaling_laws.json"
    laws = json.loads(path.read_text("utf-8"))["laws"]
    for name, entry in laws.items():
        law = find_law(name)
        assert law.draws.shape == (len(entry["bootstrap"]), 5) and len(law.draws) >= 50, name
        assert (np.std(law.draws, axis=0) > 0).all(), name
        assert dataclasses.replace(law, bootstrap=()).predict(1e9, 1e10).low is None
