"""--serve: what is fixed is fixed, and a rate becomes the users that Little's law says."""

from __future__ import annotations

from functools import partial

import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.service import at_rate, serving_target
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.serving.choose import plan_serving

SHAPE = known_model("qwen3-8b")


def test_engine_split_and_format_may_be_fixed() -> None:
    target, named, rate, has_format = serving_target(
        "users=8,engine=vllm,tp=2,format=awq,device=h100,tpot=50ms"
    )
    assert named == "h100" and rate is None and has_format
    assert target.tokens_per_s_per_user == pytest.approx(20)
    found = plan_serving(SHAPE, device("h100"), target)
    assert (found.engine, found.devices_per_replica, found.quantisation) == ("vllm", 2, "int4")


def test_a_rate_is_users_by_littles_law() -> None:
    target, _, rate, has_format = serving_target("rate=5,in=512,output=200,ttft=1s,tokens_per_s=20")
    assert rate == 5 and not has_format
    found = at_rate(target, rate, partial(plan_serving, SHAPE, device("l40s")))
    seconds = found.first_token_s.value + 200 / found.tokens_per_s_per_user.value
    users = int(next(note for note in found.notes if "Little" in note).split("keep ")[1].split()[0])
    assert users == pytest.approx(5 * seconds, abs=1.5)
    # what is answered is what arrives
    assert found.tokens_per_s.value == pytest.approx(5 * 200, rel=0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("users=1,rate=2", "keep one"),
        ("userz=3", "did you mean users"),
        ("tpot=1ms,tokens_per_s=3", "one thing"),
        ("rate=0", "rate"),
        ("format=int3", "quantisations"),
        ("isl=8000,in=200", "input is given twice"),
        ("quantization=fp8,format=int4", "quantisation is given twice"),
    ],
)
def test_nonsense_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        serving_target(text)


def test_what_the_device_cannot_run_is_refused() -> None:
    for text, words in (("engine=cpu", "expected: vllm"), ("tp=3", "does not divide")):
        target = serving_target(text).target
        with pytest.raises(SpecError, match=words):
            plan_serving(SHAPE, device("l40s"), target)
