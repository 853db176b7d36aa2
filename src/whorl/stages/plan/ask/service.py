"""What --serve says: a target, and what of the deployment is fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_duration_s, parse_number
from whorl.stages.plan.ask.layouts import parse_pairs
from whorl.stages.plan.facts import fact
from whorl.stages.plan.serving.target import ServingPlan, ServingTarget

__all__ = ["at_rate", "serving_target"]

FORMATS: Mapping[str, str] = fact("formats")
SHORT: Mapping[str, str] = fact("serve_words")
MOST_ROUNDS = 20
READ: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {  # key -> field of the target, how
    "users": ("users", parse_count),
    "input": ("input_tokens", parse_count),
    "output": ("output_tokens", parse_count),
    "ttft": ("first_token_p95_s", parse_duration_s),
    "tokens_per_s": ("tokens_per_s_per_user", partial(parse_number, least=1e-9)),
    "quantisation": (
        "quantisations",
        lambda text, _: tuple(FORMATS.get(name, name) for name in text.lower().split("+")),
    ),
    "engine": ("engines", lambda text, _: tuple(filter(None, text.lower().split("+")))),
    "tp": ("devices_per_replica", parse_count),
}
SERVE_KEYS = ("rate", "tpot", "device", *READ, *SHORT)


class Service(NamedTuple):
    target: ServingTarget
    device: str | None  # if another is named
    rate: float | None  # requests a second, in place of users
    has_format: bool  # one is stated


def serving_target(text: str) -> Service:
    """What "users=100,ttft=1s,…" says. Raises SpecError.

    Without users or a rate: one user. With a rate the users are those in flight when the target is
    just met; `at_rate` finds how many there are.
    """
    pairs = parse_pairs(text, "--serve", SERVE_KEYS, SHORT)
    for one, other, what in (
        ("users", "rate", "users and rate both say the load"),
        ("tokens_per_s", "tpot", "tokens_per_s and tpot are one thing"),
    ):
        if one in pairs and other in pairs:
            raise SpecError(f"--serve: {what}", do="keep one of them")
    if "tpot" in pairs:
        pairs["tokens_per_s"] = str(1 / parse_duration_s(pairs["tpot"], "--serve: tpot"))
    given: dict[str, Any] = {"users": 1, "input_tokens": 1024, "output_tokens": 256}
    given |= {
        field: read(pairs[key], f"--serve: {key}")
        for key, (field, read) in READ.items()
        if key in pairs
    }
    rate = parse_number(pairs["rate"], "--serve: rate", 1e-9) if "rate" in pairs else None
    return Service(
        ServingTarget(**given), pairs.get("device"), rate, has_format="quantisation" in pairs
    )


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
