"""Plans keep their target, conserve requests and money, and refuse with changes that help."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.serving.choose import plan_serving
from whorl.stages.plan.serving.target import ServingPlan, ServingTarget

CHAT = ServingTarget(users=200, input_tokens=1_024, output_tokens=512)


def plan(model: str, name: str, target: ServingTarget = CHAT, **other: float) -> ServingPlan:
    return plan_serving(known_model(model), device(name), target, **other)


CASES = [
    ("llama-3.1-8b", "h100", CHAT),
    ("llama-3.1-70b", "h100", replace(CHAT, users=1_000)),
    ("llama-3.1-70b", "a100-80", replace(CHAT, users=37, tokens_per_s_per_user=15)),
    ("deepseek-v3", "h200", replace(CHAT, input_tokens=4_000)),
    ("gpt-oss-120b", "b200", replace(CHAT, users=3_000, quantisations=("mxfp4",))),
    ("qwen3-30b-a3b", "mi300x", CHAT),
]


@pytest.mark.parametrize(("model", "name", "target"), CASES)
def test_a_plan_serves_everyone_in_time(model: str, name: str, target: ServingTarget) -> None:
    found = plan(model, name, target)
    assert found.replicas.value * found.max_running >= target.users
    assert found.tokens_per_s_per_user.value >= target.tokens_per_s_per_user
    assert found.first_token_p95_s.value <= target.first_token_p95_s
    needed = target.users / found.replicas.value * (target.input_tokens + target.output_tokens)
    assert needed <= found.max_cache_tokens


@pytest.mark.parametrize(("model", "name", "target"), CASES)
def test_requests_and_money_are_conserved(model: str, name: str, target: ServingTarget) -> None:
    found = plan(model, name, target, price=3.0)
    # Little's law: requests in flight = requests per second x seconds per request
    seconds = found.first_token_s.value + target.output_tokens / found.tokens_per_s_per_user.value
    per_second = found.tokens_per_s.value / target.output_tokens
    assert per_second * seconds == pytest.approx(target.users)
    assert found.usd_per_hour == found.devices * 3.0
    an_hour = found.tokens_per_s.value * 3_600 / 1e6 * found.usd_per_million_tokens.value
    assert an_hour == pytest.approx(found.usd_per_hour)
    for item in vars(found).values():
        if hasattr(item, "low") and item.high is not None:
            assert item.low <= item.value <= item.high


def test_more_memory_needs_no_more_devices() -> None:
    many = ServingTarget(5_000, 2_000, 500, first_token_p95_s=5, tokens_per_s_per_user=30)
    small = device("l40s")
    counts = [
        plan_serving(known_model("qwen3-8b"), replace(small, memory_bytes=size), many).devices
        for size in (small.memory_bytes, 1.5 * small.memory_bytes, 2 * small.memory_bytes)
    ]
    assert counts == sorted(counts, reverse=True)


def test_cost_follows_the_price() -> None:
    cheap, dear = (plan("llama-3.1-70b", "h100", price=usd) for usd in (1.0, 4.0))
    assert dear.usd_per_million_tokens.value == pytest.approx(
        4 * cheap.usd_per_million_tokens.value
    )
    with pytest.raises(SpecError, match="price"):
        plan("llama-3.1-70b", "h100", price=-1.0)


def test_more_of_anything_never_needs_fewer_devices() -> None:
    ladders = [
        [replace(CHAT, users=n) for n in (1, 30, 300, 3_000)],
        [replace(CHAT, tokens_per_s_per_user=n) for n in (5, 15, 25, 35)],
        [replace(CHAT, input_tokens=n) for n in (256, 2_048, 8_192)],
        [replace(CHAT, first_token_p95_s=n) for n in (5.0, 2.0, 1.0)],
    ]
    for ladder in ladders:
        devices = [plan("llama-3.1-70b", "h100", target).devices for target in ladder]
        assert devices == sorted(devices)
        assert devices[0] < devices[-1]


def test_a_faster_memory_decodes_faster() -> None:
    target = replace(CHAT, users=1, quantisations=("bf16",))
    h100, h200 = (plan("llama-3.1-8b", name, target) for name in ("h100-sxm", "h200"))
    gain = h200.tokens_per_s_per_user.value / h100.tokens_per_s_per_user.value
    assert 1.1 < gain < 4_800 / 3_350  # the bandwidths' ratio, less what does not scale


def test_unmeasured_devices_have_wider_intervals() -> None:
    nvidia, amd = (plan("qwen3-30b-a3b", name) for name in ("h200", "mi300x"))
    widths = [item.first_token_s.high / item.first_token_s.low for item in (nvidia, amd)]
    assert widths[1] == pytest.approx(widths[0] ** 2)


def test_too_fast_a_target_is_refused_with_a_rate_that_works() -> None:
    target = replace(CHAT, tokens_per_s_per_user=200.0)
    with pytest.raises(PlanError) as caught:
        plan("llama-3.1-405b", "h100", target)
    rate = float(re.search(r"ask for ([\d.]+) tokens/s", str(caught.value))[1])
    slower = plan("llama-3.1-405b", "h100", replace(target, tokens_per_s_per_user=rate * 0.99))
    assert slower.tokens_per_s_per_user.value >= rate * 0.99


def test_too_large_a_model_is_refused_with_a_narrower_type() -> None:
    with pytest.raises(PlanError, match=r"do not fit one node.*quantise to int4.*split over more"):
        plan("deepseek-v3", "h100")
    fits = plan("deepseek-v3", "h100", replace(CHAT, quantisations=("int4",)))
    assert fits.quantisation == "int4"
    with pytest.raises(PlanError, match="do not fit"):  # 685 GB at fp8 on 640 GB
        plan("deepseek-v3", "h100", replace(CHAT, quantisations=("fp8",)))


def test_a_long_prompt_is_refused_with_a_shorter_one() -> None:
    target = replace(CHAT, input_tokens=120_000, first_token_p95_s=4.0)
    with pytest.raises(PlanError, match=r"allow .* s to the first token.*shorten the input"):
        plan("llama-3.1-70b", "h100", target)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", 0),
        ("users", 1.5),
        ("input_tokens", -1),
        ("first_token_p95_s", math.nan),
        ("tokens_per_s_per_user", math.inf),
        ("quantisations", ("fp3",)),
    ],
)
def test_nonsense_targets_are_refused(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=name):
        replace(CHAT, **{name: value})


def test_a_context_longer_than_the_model_s_is_refused() -> None:
    with pytest.raises(PlanError, match=r"found: 1536 tokens.*expected: at most 1024"):
        plan("gpt2", "h100")
