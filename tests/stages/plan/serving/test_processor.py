"""The processor's plan against what OpenVINO and transformers reached on it: the right order."""

from __future__ import annotations

import pytest

from tests.stages.plan.conftest import choices
from whorl.arch.shape import AttentionShape, ModelShape
from whorl.stages.plan.hardware import Calibration, MachineFacts, MatmulRate, TrafficRate
from whorl.stages.plan.serving import ServingTarget, cpu_device, plan_serving

FACTS = MachineFacts(cpu="two cores", cores=2, memory_bytes=24 * 2**30, bf16=True)
# Of the machine of the README's table, `whorl doctor --calibrate`, 22 Nov 2026.
CALIBRATION = Calibration(
    identity=FACTS.identity,
    measured_at="2026-11-22T21:41:28+00:00",
    torch="2.13.0",
    threads=2,
    matmuls=(MatmulRate(precision="fp32", tokens=1024, columns=128, rows=384, flops_per_s=141e9),),
    orthogonalise=(),
    attentions=(),
    traffic=(
        TrafficRate(num_bytes=65_536, bytes_per_s=4.5e9),
        TrafficRate(num_bytes=12_582_912, bytes_per_s=42.1e9),
    ),
    exponentials_per_s=1.3e9,
    operation_s=4.4e-6,
    base_memory_bytes=283_701_248,
    choices=choices(),
    steps=(),
    noise=0.07,
    took_s=7.8,
)
SMALL = ModelShape("small", 4, 192, 512, 4_096, AttentionShape(6, 3, 32))
MEASURED = {1: 2_003, 16: 7_740}  # README: OpenVINO f32, 128 tokens in, 64 out


@pytest.mark.parametrize("together", MEASURED)
def test_rates_are_of_the_measured_order(together: int) -> None:
    target = ServingTarget(together, 128, 64, quantisations=("fp32",))
    found = plan_serving(SMALL, cpu_device(FACTS, CALIBRATION, price=0.1), target)
    assert found.engine == "cpu" and found.devices == 1
    assert MEASURED[together] / 3 < found.tokens_per_s.value < MEASURED[together] * 3
    assert found.tokens_per_s.low < MEASURED[together] < found.tokens_per_s.high


def test_traffic_of_large_arrays_bounds_decoding() -> None:
    """A model of 4 GB read at 42 GB/s gives at most some 10 tokens/s."""
    large = ModelShape("large", 24, 2_048, 5_632, 32_000, AttentionShape(16, 16, 128))
    target = ServingTarget(1, 128, 64, 60.0, 1.0, quantisations=("fp32",))
    found = plan_serving(large, cpu_device(FACTS, CALIBRATION), target)
    parameters = 24 * (4 * 2_048**2 + 3 * 2_048 * 5_632) + 32_000 * 2_048
    bound = 42.1e9 / (4 * parameters)
    assert 0.7 * bound < found.tokens_per_s_per_user.value < bound
    assert found.usd_per_million_tokens.value == 0
