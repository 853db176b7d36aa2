"""The whole job against arithmetic by hand and published runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.whole_job.checkpoints import time_shares
from whorl.stages.plan.whole_job.failures import FailureRate, expected_rate, failure_facts
from whorl.stages.plan.whole_job.view import Range, WholeJob, steps_of, view_job

# 100 steps of 36 s on 8 devices: one hour; nothing fails and checkpoints take next to nothing
HOUR = WholeJob(
    step_s=Range(36.0, 18.0, 72.0),
    steps=100,
    devices=8,
    device=device("h100"),
    checkpoint_bytes=1.0,
    storage_bytes_per_s=1e9,
    usd_per_device_hour=2.0,
)
# 54 days on 16,384 GPUs; 405 billion parameters at 14 bytes, 2 TB/s of storage (the paper's
# sustained rate)
LLAMA = WholeJob(
    step_s=Range(10.0, 10.0, 10.0),
    steps=54 * 86_400 // 10,
    devices=16_384,
    device=device("h100"),
    checkpoint_bytes=405e9 * 14,
    storage_bytes_per_s=2e12,
)
LLAMA_RATE = next(f for f in failure_facts() if f.name == "Llama 3 405B").per_device_hour
NEVER, USUAL = FailureRate(0.0, 0.0, 0.0), expected_rate("gpu")


def test_one_hour_by_hand() -> None:
    view = view_job(HOUR, NEVER)
    assert view.ideal_days.value == pytest.approx(1 / 24)
    assert view.device_hours.value == pytest.approx(8, rel=1e-5)
    assert view.usd.value == pytest.approx(16, rel=1e-5)
    assert (view.usd.low, view.usd.high) == pytest.approx((8, 32), rel=1e-5)
    # 8 x (700 + 575) W for one hour at 0.76 of the rating, times 1.2
    assert view.energy_kwh.value == pytest.approx(10.2 * 0.76 * 1.2, rel=1e-5)
    assert view.energy_kwh.low == pytest.approx(10.2 / 2 * 0.6 * 1.1, rel=1e-5)
    assert view.failures.value < 1e-6 and view.goodput.value == pytest.approx(1, abs=1e-5)
    assert view.usd_per_device_hour == 2


def test_price_of_the_catalogue_is_the_default() -> None:
    view = view_job(replace(HOUR, usd_per_device_hour=None), NEVER)
    assert view.usd.value == pytest.approx(8 * device("h100").usd_per_hour, rel=1e-5)


def test_a_price_of_zero_is_a_price() -> None:
    card = replace(device("h100"), usd_per_hour=0.0)  # whose price nobody knows
    free, unknown = (
        view_job(replace(HOUR, device=card, usd_per_device_hour=price), NEVER)
        for price in (0.0, None)
    )
    assert (free.usd_per_device_hour, unknown.usd_per_device_hour) == (0.0, None)
    assert any(line.startswith("0 USD per device and hour") for line in free.assumptions)
    assert not any("not known" in line for line in free.assumptions)
    assert any("price is not known" in line for line in unknown.assumptions)


def test_llama_3_failed_419_times_and_trained_more_than_90_percent() -> None:
    rate = FailureRate(LLAMA_RATE, LLAMA_RATE, LLAMA_RATE)
    view = view_job(LLAMA, rate)
    assert view.failures.value * view.goodput.value == pytest.approx(419, rel=1e-3)
    assert view.mtbf_hours.value == pytest.approx(3.09, rel=0.01)
    assert 0.9 < view.goodput.value < 0.98
    assert view.days.value == pytest.approx(54 / view.goodput.value)
    unaware = view_job(LLAMA, USUAL)  # with the rate of clusters in general
    assert unaware.failures.low < 419 < unaware.failures.high
    assert unaware.goodput.low < view.goodput.value < unaware.goodput.high


def test_training_waits_for_the_copy_alone() -> None:
    view = view_job(LLAMA, USUAL)
    assert view.checkpoint_write_s == pytest.approx(405e9 * 14 / 2e12)
    assert view.checkpoint_stall_s == pytest.approx(405e9 * 14 / 16_384 / 10e9)


def test_planned_interval_is_whole_steps_near_the_optimum() -> None:
    """No interval of half to twice as long leaves more of the time useful."""
    rate = FailureRate(LLAMA_RATE, LLAMA_RATE, LLAMA_RATE)
    planned = view_job(replace(LLAMA, storage_bytes_per_s=1e14), rate)
    interval_s = planned.checkpoint_interval_s
    assert planned.checkpoint_interval_steps * 10 == interval_s
    assert planned.checkpoints == -(-LLAMA.steps // planned.checkpoint_interval_steps)
    # 419 failures in 54 days; each device copies its share at 10 GB/s, storage takes 1e14 bytes/s
    mtbf_s, state = 54 * 86_400 / 419, 405e9 * 14
    stall_s, write_s = state / 16_384 / 10e9, state / 1e14

    def goodput(factor: float) -> float:
        return time_shares(mtbf_s, factor * interval_s, stall_s, 600 + write_s, write_s).useful

    assert planned.goodput.value == pytest.approx(goodput(1), rel=1e-3)
    assert all(goodput(factor) < goodput(1) for factor in (0.5, 0.6, 1.7, 2))


def test_storage_is_not_kept_busy_with_checkpoints() -> None:
    view = view_job(replace(LLAMA, storage_bytes_per_s=2e10), USUAL)
    assert view.checkpoint_interval_s >= 10 * view.checkpoint_write_s
    assert view.daly_interval_s < view.checkpoint_interval_s


def test_short_job_keeps_its_checkpoint_to_the_end() -> None:
    view = view_job(replace(HOUR, checkpoint_bytes=1e12), NEVER)  # 1,000 s to write
    assert view.checkpoints == 1 and view.checkpoint_interval_steps == 100


def test_more_devices_fail_more_often() -> None:
    few, many = (view_job(replace(LLAMA, devices=n * LLAMA.devices), USUAL) for n in (1, 4))
    assert many.mtbf_hours.value == pytest.approx(few.mtbf_hours.value / 4)
    assert many.goodput.value < few.goodput.value


def test_json_holds_every_number() -> None:
    view = view_job(LLAMA, USUAL)
    found = json.loads(json.dumps(asdict(view)))
    assert found["days"] == {
        "value": view.days.value,
        "low": view.days.low,
        "high": view.days.high,
    }
    assert sum(found["shares"].values()) == pytest.approx(1)
    text = " ".join(found["assumptions"])
    assert "USD" in text and "PUE" in text and "2407.21783" in " ".join(found["sources"])


def test_tpus_say_whose_failures_they_borrow() -> None:
    view = view_job(replace(LLAMA, device=device("tpu-v5p")), expected_rate("tpu"))
    assert any("TPU" in line for line in view.assumptions)


def test_job_that_cannot_finish_is_refused() -> None:
    with pytest.raises(PlanError, match="no time to train"):
        view_job(replace(LLAMA, storage_bytes_per_s=1e8), USUAL)


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": 0},
        {"devices": -8},
        {"steps": 0},
        {"checkpoint_bytes": 0.0},
        {"storage_bytes_per_s": -1.0},
        {"storage_bytes_per_s": float("nan")},
        {"usd_per_device_hour": -2.0},
        {"step_s": Range(0.0, 0.0, 0.0)},
    ],
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(changes))):
        replace(HOUR, **changes)  # type: ignore[arg-type]


def test_more_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="out of order"):
        Range(1.0, 2.0, 3.0)
    with pytest.raises(SpecError, match="tokens"):
        steps_of(-1, 1000)
    assert steps_of(15e12, 4e6) == 3_750_000 and steps_of(1001, 1000) == 2
