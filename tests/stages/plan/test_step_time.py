"""Step time: measured shapes are given back, known factors are found, more work takes longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stages.plan.conftest import machine
from whorl.arch.dense import dense_shape
from whorl.arch.shape_counts import flops_per_token
from whorl.core.errors import PlanError
from whorl.stages.plan.hardware import Calibration
from whorl.stages.plan.step_time import (
    Level,
    Load,
    fit_level,
    predicted_step_s,
    reference_load,
    step_time,
)

SHAPE = dense_shape(
    layers=4,
    width=256,
    heads=4,
    kv_heads=4,
    head_dim=64,
    ffn_width=768,
    vocab_size=2048,
    max_seq_len=256,
)
LOAD = Load(SHAPE, seq_len=256, rows=16)


def with_steps(calibration: Calibration, truth: Level) -> Calibration:
    """The calibration with steps timed on a machine of exactly these factors."""
    timed = [
        step.model_copy(update={"masked": masked, "width": width, "layers": layers, "rows": rows})
        for step, masked, width, layers, rows in zip(
            calibration.steps * 2,
            (False, True, False, True, False, False),
            (64, 128, 256, 256, 64, 128),
            (2, 3, 2, 4, 8, 1),
            (2, 16, 4, 8, 4, 4),
            strict=True,
        )
    ]
    timed = [
        step.model_copy(
            update={"step_s": predicted_step_s(reference_load(step), calibration, truth)}
        )
        for step in timed
    ]
    return calibration.model_copy(update={"steps": tuple(timed)})


def test_matmul_time_is_flops_over_rate_where_the_shape_was_measured() -> None:
    calibration = machine().calibration
    parts = step_time(LOAD, calibration)
    flops = 3 * flops_per_token(SHAPE, 256).blocks * LOAD.tokens
    assert parts.matmul_s == pytest.approx(flops / 160e9, rel=1e-9)  # one rate for all shapes
    pairs = 4 * 4 * 16 * 256**2
    assert parts.attention_s == pytest.approx(pairs / 0.12e9, rel=1e-9)
    assert parts.masked_s == 0


def test_the_head_is_computed_for_trained_tokens_alone() -> None:
    """At one rate for all products a quarter of the tokens takes a quarter of the time."""
    calibration = machine().calibration
    whole, quarter = (
        step_time(replace(LOAD, trained_share=share), calibration) for share in (1.0, 0.25)
    )
    assert quarter.loss_s == pytest.approx(whole.loss_s / 4, rel=1e-9)
    assert replace(quarter, loss_s=whole.loss_s) == whole


def test_a_measured_shape_dominates_its_neighbours() -> None:
    calibration = machine().calibration
    rates = list(calibration.matmuls)
    slow = [rate.model_copy(update={"flops_per_s": 10e9}) for rate in rates[1:]]
    narrow = replace(
        SHAPE, width=64, ffn_width=64, attention=replace(SHAPE.attention, heads=1, kv_heads=1)
    )
    changed = calibration.model_copy(update={"matmuls": (rates[0], *slow)})
    for load, low, high in ((Load(narrow, 256, rows=4), 150e9, 160e9), (LOAD, 10e9, 20e9)):
        flops = 3 * flops_per_token(load.shape, 256).blocks * load.tokens
        assert low < flops / step_time(load, changed).matmul_s <= high


@pytest.mark.parametrize(
    "truth", [Level(1.0, 1.0, 1.0, 0.0), Level(2.5, 3.0, 1.4, 0.0), Level(0.7, 6.0, 0.8, 0.0)]
)
def test_factors_of_made_up_steps_are_found(truth: Level) -> None:
    calibration = with_steps(machine().calibration, truth)
    found = fit_level(calibration)
    assert found.spread < 0.03
    for load in (LOAD, replace(LOAD, mixed_share=0.5), replace(LOAD, rows=2)):
        expected = predicted_step_s(load, calibration, truth)
        assert predicted_step_s(load, calibration, found) == pytest.approx(expected, rel=0.05)


def test_more_work_takes_longer() -> None:
    calibration = machine().calibration
    level = Level(2.0, 2.0, 1.2)
    base = predicted_step_s(LOAD, calibration, level)
    wider = replace(SHAPE, width=512, attention=replace(SHAPE.attention, heads=8))
    for more in (
        replace(LOAD, rows=17),
        replace(LOAD, micro_batches=2),
        replace(LOAD, shape=wider),
        replace(LOAD, shape=replace(SHAPE, vocab_size=4096)),
        replace(LOAD, mixed_share=1.0),
    ):
        assert predicted_step_s(more, calibration, level) > base
    in_bf16 = replace(LOAD, precision="bf16")
    assert predicted_step_s(in_bf16, calibration, level) < base
    assert step_time(replace(LOAD, optimizer="adamw"), calibration).optimizer_s < (
        step_time(LOAD, calibration).optimizer_s
    )


def test_a_machine_twice_as_fast_takes_half_the_time() -> None:
    slow, fast = machine().calibration, machine(speed=2.0).calibration
    level = Level(2.0, 2.0, 1.0)
    assert predicted_step_s(LOAD, fast, level) == pytest.approx(
        predicted_step_s(LOAD, slow, level) / 2
    )


def test_a_calibration_without_rates_or_steps_is_refused() -> None:
    calibration = machine().calibration
    with pytest.raises(PlanError, match="not measured"):
        step_time(LOAD, calibration.model_copy(update={"matmuls": ()}))
    with pytest.raises(PlanError, match="no steps"):
        fit_level(calibration.model_copy(update={"steps": ()}))
