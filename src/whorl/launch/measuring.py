"""What a machine is asked, and in which order: what decides most comes first.

`python -m whorl.launch.measuring` measures in a process of its own and prints every try as it is
done, one a line: [name, seconds by the clock, seconds of the processor or null].
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import psutil

from whorl.launch.apart import given
from whorl.launch.candidates import (
    DTYPE_NAMES,
    Way,
    choices,
    first_ways,
    muon_dtypes,
    muon_name,
    precision_ways,
    product_name,
    rows_of_choice,
)
from whorl.launch.figures import REFERENCE_STEPS, Rate, rates_of, reference_name, step_config
from whorl.launch.turns import Trial, Try, Turns
from whorl.stages.plan.hardware import MachineFacts, settings_of

__all__ = ["MEMORY", "Bench", "measure"]

MEMORY = "base memory, bytes"  # told as if it were a try
PRODUCT_TRIES = 2  # which only say whether more of bf16 is worth trying
FIRST_TRIES = 2  # of the usual way: whether others leave it alone
CHOICE_SHARE, FIRST_SHARE = 0.55, 0.5  # of the time for choosing, and of that for layouts
SLOW_S = 0.05  # of the smallest step: then all steps that are compared are small


class Bench(Protocol):
    """What does the work, once for each call of what it gives."""

    def way(self, way: Way) -> Callable[[], Try]:
        """A step of CHOICE_STEP's model."""
        ...

    def product(self, dtype: str) -> Callable[[], Try]: ...

    def muon(self, dtype: str) -> Callable[[], Try]: ...

    def rate(self, rate: Rate, settings: Mapping[str, Any]) -> Callable[[], Try]:
        """On the threads of one lane."""
        ...

    def reference(self, values: tuple[Any, ...], settings: Mapping[str, Any]) -> Callable[[], Try]:
        """A whole step, of as many rows in each lane."""
        ...


def measure(facts: MachineFacts, bench: Bench, turns: Turns) -> None:
    """Everything, until the turns' end: ways to compute, then rates and steps of what is taken."""
    begin_s = turns.clock()
    chosen_s = begin_s + CHOICE_SHARE * (turns.ends_s - begin_s)
    products = [Trial(product_name(d), partial(bench.product, d)) for d in DTYPE_NAMES]
    turns.take(products, chosen_s, most=PRODUCT_TRIES)
    muon = [Trial(muon_name(d), partial(bench.muon, d)) for d in muon_dtypes(turns.known)]
    turns.take(muon, chosen_s)
    rows = rows_of_choice(facts.cores, small=_is_slow(facts, bench, turns))
    ways = first_ways(facts, rows)
    first_s = turns.clock() + FIRST_SHARE * (chosen_s - turns.clock())
    if ways[0].name not in turns.known:
        turns.take([_trial(bench, ways[0])], first_s, most=FIRST_TRIES)
    if len(worth := _worth_trying(ways, turns)) > 1:
        turns.take([_trial(bench, way) for way in worth], first_s)
    layout, *_ = choices(facts, turns.known)
    precise = precision_ways(facts, rows, layout.settings, turns.known)
    turns.take([_trial(bench, way) for way in precise], chosen_s)
    taken = settings_of(choices(facts, turns.known))
    turns.take(_figures(facts, bench, taken))


def _trial(bench: Bench, way: Way) -> Trial:
    return Trial(way.name, partial(bench.way, way))


def _worth_trying(ways: Sequence[Way], turns: Turns) -> list[Way]:
    """Threads that wait by spinning are timed by the clock alone, which says nothing of them while
    others take the cores; and one step of theirs would then take seconds."""
    default = turns.known.get(ways[0].name)
    is_quiet = default is not None and default.was_left_alone
    return [way for way in ways if is_quiet or not way.spins]


def _figures(facts: MachineFacts, bench: Bench, taken: Mapping[str, Any]) -> list[Trial]:
    """One of each kind, a whole step, then the others."""
    rates = rates_of(facts.bf16, taken["muon_dtype"])
    num_groups = len({rate.group for rate in rates})
    trials = [Trial(rate.name, partial(bench.rate, rate, taken)) for rate in rates]
    steps = [
        Trial(reference_name(values), partial(bench.reference, values, taken))
        for values in REFERENCE_STEPS
    ]
    return [*trials[:num_groups], *steps, *trials[num_groups:]]


def _is_slow(facts: MachineFacts, bench: Bench, turns: Turns) -> bool:
    """Whether a step of one row a lane takes so long that larger ones would take all the time.

    Then it is a try of the way that it was done in.
    """
    smallest = first_ways(facts, rows_of_choice(facts.cores, small=True))[0]
    run = bench.way(smallest)
    first, second = run(), run()
    is_slow = min(first.wall_s, second.wall_s) > SLOW_S
    if is_slow:
        turns.note(smallest.name, second)
    return is_slow


def main() -> None:
    """Measure until the time given is over, which began with this process."""
    work = given()
    begun_s = time.time() - psutil.Process().create_time()
    ends_s = time.monotonic() + work["limit_s"] - max(0.0, begun_s)
    facts = MachineFacts.model_validate(work["facts"])
    import torch

    from whorl.launch.probes import TorchBench
    from whorl.stages.train.process import training_process

    def tell(name: str, found: Try) -> None:
        sys.stdout.write(json.dumps([name, found.wall_s, found.cpu_s]) + "\n")
        sys.stdout.flush()

    with training_process(step_config(rows=1, seq_len=1, settings={"threads": 1})):
        torch.manual_seed(0)
        bench = TorchBench()
        tell(MEMORY, Try(psutil.Process().memory_info().rss))
        measure(facts, bench, Turns(ends_s, tell))


if __name__ == "__main__":
    main()
