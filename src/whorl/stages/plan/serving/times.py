"""From work at peak rates to the latencies users see, with the few constants fitted on silicon.

The constants and the spread of their errors stand in constants.json, written by
`benchmarks/serving_accuracy.py --fit`; docs/serving-accuracy.md scores them on models and devices
they never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.stages.plan.facts import data_file
from whorl.stages.plan.serving.work import PassWork

__all__ = [
    "ENGINES",
    "Latency",
    "ReplicaLoad",
    "columns",
    "constants",
    "pass_seconds",
    "steady_state",
]

ENGINES = ("vllm", "sglang", "trtllm", "cpu")
SHARPNESS = 3.0  # how suddenly a product turns from memory- to compute-bound

Reals = NDArray[np.float64]
Columns = Mapping[str, Reals]


@dataclass(frozen=True)
class ReplicaLoad:
    """What each replica is asked for; every array has one entry per case."""

    engine: NDArray[np.int64]  # index into ENGINES
    running: Reals  # requests in one step
    waiting: Reals  # further requests that find no room in the cache
    output_tokens: Reals
    burst: NDArray[np.bool_]  # all requests arrive at one moment, once


@dataclass(frozen=True)
class Latency:
    """Seconds; means over requests in a closed loop, where a finished user asks again."""

    token_s: Reals  # between output tokens, other users' prompts included
    first_s: Reals  # to the first token
    queue_s: Reals  # of first_s: behind other prompts


def constants() -> dict[str, Any]:
    """ "values": name -> number; "error": measured / predicted at 5% and 95% of the rows."""
    return dict(data_file("serving/constants.json"))


def columns(works: Sequence[PassWork]) -> dict[str, Reals]:
    """One array per field of PassWork."""
    rows = [asdict(work) for work in works]
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def pass_seconds(
    work: Columns, engine: NDArray[np.int64], k: Mapping[str, float], prefill: bool
) -> Reals:
    """Seconds of one pass: the smooth larger of memory and compute, then what does not overlap.

    A step without prompts replays a recorded graph; one with a prompt launches its kernels one
    by one, hence two prices per layer.
    """
    name = "prefill_layer_s" if prefill else "layer_s"
    per_layer = np.array([k[f"{name}.{item}"] for item in ENGINES])[engine]
    memory = work["weights_s"] / k["weights"] + work["experts_s"] / k["experts"]
    compute = work["compute_s"] / k["compute"] + work["expert_compute_s"] / k["expert_compute"]
    products = (memory**SHARPNESS + compute**SHARPNESS) ** (1 / SHARPNESS)
    fixed = work["layers"] * per_layer + work["expert_layers"] * k["expert_layer_s"]
    result: Reals = (
        fixed
        + products
        + work["cache_s"] / k["cache"]
        + work["attention_s"] / k["compute"]
        + work["activations_s"]
        + work["routed_s"] * k["routed"]
        + work["network_s"] / k["network"]
        + work["reduces"] * k["reduce_s"]
    )
    return result


def steady_state(
    decode: Columns, prefill: Columns, load: ReplicaLoad, k: Mapping[str, float]
) -> Latency:
    """Latencies under continuous batching.

    While a user receives output_tokens, each of the other running users is replaced once and its
    prompt takes part of the steps: token_s = decode_s + interleave (running - 1) prefill_s /
    output_tokens. Requests beyond `running` wait for a place by Little's law.
    """
    step = pass_seconds(decode, load.engine, k, prefill=False)
    prompt = pass_seconds(prefill, load.engine, k, prefill=True)
    others = load.running - 1
    share = np.where(load.burst, k["interleave_burst"], k["interleave"])
    token = step + share * others * prompt / load.output_tokens
    queue = np.where(load.burst, k["queue_burst"], k["queue"]) * others * prompt
    room = load.waiting / load.running * load.output_tokens * token
    base = np.array([k[f"first_s.{item}"] for item in ENGINES])[load.engine]
    first = base + k["steps_before_first"] * step + prompt + queue + room
    return Latency(token, first, queue)
