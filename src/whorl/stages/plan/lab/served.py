"""Reports of serving: latencies of a given deployment under a given load."""

from __future__ import annotations

import numpy as np

from whorl.stages.plan.lab.reports import ServedLoad
from whorl.stages.plan.serving.choose import error_of, rates_of, room_for
from whorl.stages.plan.serving.times import (
    ENGINES,
    ReplicaLoad,
    columns,
    constants,
    steady_state,
)
from whorl.stages.plan.serving.work import decode_work, prefill_work

__all__ = ["served_figures"]


def served_figures(load: ServedLoad, metric: str) -> tuple[float, float, float] | str:
    """(predicted, low, high) of ttft_ms, tpot_ms or tokens_per_s (of all users, output tokens).

    Why there is none, where the weights and one request's cache do not fit.
    """
    d, context = load.deployment, load.input_tokens + load.output_tokens
    room = room_for(d, context)
    if room < 1:
        gib = (d.weight_bytes + d.cache_bytes(context)) / 2**30
        return f"weights and one request's cache take {gib:.1f} GiB of each {d.device.name}"
    running = float(min(load.users, int(room)))
    asked = ReplicaLoad(
        engine=np.array([ENGINES.index(load.engine)]),
        running=np.array([running]),
        waiting=np.array([load.users - running]),
        output_tokens=np.array([float(load.output_tokens)]),
        burst=np.array([False]),
    )
    decode = columns([decode_work(d, running, load.input_tokens + load.output_tokens // 2)])
    prefill = columns([prefill_work(d, 1, load.input_tokens)])
    found = steady_state(decode, prefill, asked, constants()["values"])
    first, token = float(found.first_s[0]), float(found.token_s[0])
    error = error_of(d.device)
    if metric == "tokens_per_s":
        middle, high, low = rates_of(load.users, load.output_tokens, first, token, error)
        return middle, low, high
    name, value = ("first_s", first) if metric == "ttft_ms" else ("token_s", token)
    low, high = error[name]
    return 1e3 * value, 1e3 * value * low, 1e3 * value * high
