"""What --serve says: a target, and what of the deployment is fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_duration_s, parse_number
from whorl.stages.plan.ask.layouts import parse_pairs
from whorl.stages.plan.facts import fact
from whorl.stages.plan.serving.target import ServingPlan, ServingTarget

__all__ = ["SERVE_KEYS", "at_rate", "serving_target"]

FORMATS: Mapping[str, str] = fact("formats")
SHORT: Mapping[str, str] = fact("serve_words")
SERVE_KEYS = (
    *("users", "rate", "input", "output", "ttft", "tokens_per_s", "tpot", "quantisation"),
    *("engine", "tp", "device", *SHORT),
)
MOST_ROUNDS = 20


def serving_target(text: str) -> tuple[ServingTarget, str | None, float | None]:
    """(target, device if another is named, requests a second) of "users=100,ttft=1s,…".

    Raises SpecError. Without users or a rate: one user. With a rate the users are those in flight
    when the target is just met; `at_rate` finds how many there are.
    """
    pairs = {SHORT.get(k, k): v for k, v in parse_pairs(text, "--serve", SERVE_KEYS).items()}
    if "users" in pairs and "rate" in pairs:
        raise SpecError("--serve: users and rate both say the load", do="keep one of them")
    if "tpot" in pairs:
        if "tokens_per_s" in pairs:
            raise SpecError("--serve: tokens_per_s and tpot are one thing", do="keep one of them")
        pairs["tokens_per_s"] = str(1 / parse_duration_s(pairs["tpot"], "--serve: tpot"))

    def number(key: str, default: int) -> int:
        return parse_count(pairs.get(key, default), f"--serve: {key}")

    names = pairs.get("quantisation", "bf16+fp8").lower().split("+")
    rate = parse_number(pairs["rate"], "--serve: rate", 1e-9) if "rate" in pairs else None
    target = ServingTarget(
        users=number("users", 1),
        input_tokens=number("input", 1024),
        output_tokens=number("output", 256),
        first_token_p95_s=parse_duration_s(pairs.get("ttft", "2s"), "--serve: ttft"),
        tokens_per_s_per_user=parse_number(
            pairs.get("tokens_per_s", "20"), "--serve: tokens_per_s", 1e-9
        ),
        quantisations=tuple(FORMATS.get(name, name) for name in names),
        engines=tuple(filter(None, pairs.get("engine", "").lower().split("+"))),
        devices_per_replica=number("tp", 0) if "tp" in pairs else None,
    )
    return target, pairs.get("device"), rate


def at_rate(
    target: ServingTarget, rate: float, plan: Callable[[ServingTarget], ServingPlan]
) -> ServingPlan:
    """The plan for requests that arrive at a rate: in flight are rate times seconds of a request
    (Little's law), at first as slow as the target allows, then as the plan has it, until they
    agree. Raises PlanError as `plan` does.
    """
    seconds = target.first_token_p95_s + target.output_tokens / target.tokens_per_s_per_user
    tried: Mapping[int, ServingPlan] = {}
    users = max(1, round(rate * seconds))
    while users not in tried and len(tried) < MOST_ROUNDS:
        found = plan(replace(target, users=users))
        tried = {**tried, users: found}
        token = 1 / found.tokens_per_s_per_user.value
        users = max(1, round(rate * (found.first_token_s.value + target.output_tokens * token)))
    best = max(tried) if users not in tried else users
    note = f"{rate:g} requests a second keep {best} in flight (Little's law)"
    return replace(tried[best], notes=(note, *tried[best].notes))
