"""Which of several ways to compute is fastest on this machine: tried, not assumed.

Each choice times the same work in every way that could win here, and says what was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from whorl.launch.probes import DTYPES, Stopwatch
from whorl.stages.plan.hardware import MachineFacts, MeasuredChoice

__all__ = ["choices", "layouts"]

ORTHOGONALISE_SHAPE = (4, 128, 384)
PRODUCT_SIZE = 384
WORTH = 0.9  # bf16 rounds: it is taken if it needs less than this share of float32's time
LANES_WORTH = 1.15  # lanes keep their speed beside other work: worth that much on a quiet machine
LANES_NOTE = "lanes are taken unless they are 15% slower: other work costs them less"
STEP_S = 0.25  # spent on each way of computing a step

Steps = Callable[[Mapping[str, Any]], Callable[[], object]]  # settings -> does one more step


def choices(
    facts: MachineFacts, watch: Stopwatch, step_of: Steps, step_name: str
) -> Iterator[MeasuredChoice]:
    """Lanes, the dtype of products and attention, Muon's dtype; each with the times it rests on.

    step_of makes a step of the model `step_name` describes, with settings of a TrainConfig.
    """
    settings: dict[str, Any] = {"threads": facts.cores, "lanes": 1, "precision": "fp32"}
    lanes = _lanes(facts, watch, step_of, step_name)
    yield lanes
    settings |= lanes.settings
    torch.set_num_threads(max(1, settings["threads"] // settings["lanes"]))
    muon = _muon(watch)
    yield muon
    yield _precision(watch, step_of, step_name, settings | muon.settings)


def layouts(cores: int, physical_cores: int) -> list[dict[str, int]]:
    """Threads and lanes worth trying: every operation on all cores, or a lane for each core."""
    counts = sorted({cores, min(cores, physical_cores)}, reverse=True)
    tried = [{"threads": count, "lanes": count} for count in counts]
    return [*tried, {"threads": cores, "lanes": 1}] if cores > 1 else tried


def _lanes(facts: MachineFacts, watch: Stopwatch, step_of: Steps, step_name: str) -> MeasuredChoice:
    named = {
        f"{way['lanes']} x {way['threads'] // way['lanes']}": way
        for way in layouts(facts.cores, facts.physical_cores or facts.cores)
    }
    seconds = {}
    for name, way in named.items():
        torch.set_num_threads(max(1, way["threads"] // way["lanes"]))
        seconds[name] = watch.fastest(step_of({**way, "precision": "fp32"}), STEP_S)
    best = min(seconds, key=lambda name: seconds[name])
    together = [name for name, way in named.items() if way["lanes"] > 1]
    best_lanes = min(together, key=lambda name: seconds[name], default=best)
    taken = best_lanes if seconds[best_lanes] <= LANES_WORTH * seconds[best] else best
    return MeasuredChoice(
        key="train.lanes",
        what=f"a step of {step_name}, by lanes x threads of each",
        taken=taken,
        seconds=seconds,
        settings=named[taken],
        note=LANES_NOTE if seconds[taken] > seconds[best] else "",
    )


def _muon(watch: Stopwatch) -> MeasuredChoice:
    from whorl.stages.train.optimizers.muon import orthogonalise

    matrices = torch.randn(ORTHOGONALISE_SHAPE)
    seconds = {
        name: watch.fastest(partial(orthogonalise, matrices, dtype=dtype))
        for name, dtype in DTYPES.items()
    }
    taken = _bf16_if_worth_it(seconds, ("bf16",))
    return MeasuredChoice(
        key="train.muon_dtype",
        what="orthogonalising four matrices of 128 x 384",
        taken=taken,
        seconds=seconds,
        settings={"muon_dtype": taken},
    )


def _precision(
    watch: Stopwatch, step_of: Steps, step_name: str, settings: Mapping[str, Any]
) -> MeasuredChoice:
    """float32 unless bf16 products pay for their casts; attention in whichever is faster then."""
    products = {name: _product_s(watch, dtype) for name, dtype in DTYPES.items()}
    ways = {"fp32": {"precision": "fp32", "attention_dtype": "fp32"}}
    ratio = products["bf16"] / products["fp32"]
    note = f"bf16 products take {ratio:.2g} x the time of fp32, bf16 is taken if it saves a tenth"
    if products["bf16"] < products["fp32"]:
        for dtype in DTYPES:
            ways[f"bf16, attention {dtype}"] = {"precision": "bf16", "attention_dtype": dtype}
    seconds = {
        name: watch.fastest(step_of({**settings, **way}), STEP_S) for name, way in ways.items()
    }
    taken = _bf16_if_worth_it(seconds, [name for name in ways if name != "fp32"])
    return MeasuredChoice(
        key="train.precision",
        what=f"a step of {step_name}",
        taken=taken,
        seconds=seconds,
        settings=ways[taken],
        note=note,
    )


def _bf16_if_worth_it(seconds: Mapping[str, float], others: Sequence[str]) -> str:
    best = min(others, key=lambda name: seconds[name], default="fp32")
    return best if seconds[best] < WORTH * seconds["fp32"] else "fp32"


def _product_s(watch: Stopwatch, dtype: torch.dtype) -> float:
    x = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE).to(dtype)
    return watch.fastest(partial(torch.mm, x, x))
