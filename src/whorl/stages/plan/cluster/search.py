"""The fastest layouts of a job that fit in memory, and why the others lose.

Every layout of the space is counted once: evaluated, dominated (the same layout fits without
recomputation, which is faster) or infeasible for a named reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import GIB
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.memory import needed_for
from whorl.stages.plan.cluster.remedies import MemoryOf, Say, named
from whorl.stages.plan.cluster.search_remedies import cheapest_changes
from whorl.stages.plan.cluster.search_space import Mesh, SearchSpace
from whorl.stages.plan.cluster.seconds import part_name
from whorl.stages.plan.cluster.step import StepTime, step_times

__all__ = ["RankedLayout", "SearchResult", "SearchSpace", "TimeOf", "search_layouts"]

TIE = 0.01  # predicted times closer than this are one time: the simpler layout is the better
ROOM = 0.905  # of the memory: what is left covers the 90% interval of a predicted peak
FAR = 1.25  # beyond the memory by this, with all recomputed: not worth a look at lighter ones
NO_BATCH, FAR_TOO_MUCH, TOO_MUCH, NO_JOB = (
    "the global batch does not divide by dp",
    "far too large for the memory, whatever is recomputed",
    "too large for the memory",
    "the job cannot be run",
)
TimeOf = Callable[[Sequence[TrainingJob]], Sequence[StepTime]]


@dataclass(frozen=True)
class RankedLayout:
    job: TrainingJob
    step: StepTime
    peak_bytes: float  # that the fullest rank needs
    why: str = ""  # what makes it lose against the best; empty for the best

    @property
    def layout(self) -> Layout:
        return self.job.layout

    @property
    def seconds(self) -> float:
        """Of one step."""
        return self.step.step_s


@dataclass(frozen=True)
class SearchResult:
    best: RankedLayout
    ranked: tuple[RankedLayout, ...]  # best first
    pareto: tuple[RankedLayout, ...]  # fastest first, each with less memory than the one before
    limit_bytes: float
    examined: int  # layouts of the space, and those given
    evaluated: int
    dominated: int
    infeasible: Mapping[str, int]  # reason -> layouts


@dataclass
class _Search:
    """What one search knows while it runs."""

    space: SearchSpace
    memory_of: MemoryOf
    limit_bytes: float
    fitting: list[tuple[TrainingJob, float]] = field(default_factory=list)  # peak bytes
    infeasible: Counter[str] = field(default_factory=Counter)
    examined: int = 0
    evaluated: int = 0
    dominated: int = 0

    def fits(self, layout: Layout, into: list[tuple[TrainingJob, float]]) -> bool:
        """Whether a layout fits; if so it is appended."""
        job = self.space.job(layout)
        peak = self.memory_of(job)
        if peak <= self.limit_bytes:
            into.append((job, peak))
        return peak <= self.limit_bytes


def search_layouts(
    space: SearchSpace,
    *,
    memory_limit_bytes: float | None = None,
    time_of: TimeOf | None = None,
    memory_of: MemoryOf | None = None,
    keep: int = 20,
    tie: float = TIE,
    also: Iterable[Layout] = (),
    say: Say = named,
) -> SearchResult:
    """The `keep` fastest layouts whose peak is within the limit (default: the device's memory).

    time_of and memory_of (peak bytes) replace the planner's predictions, whose intervals only what
    is returned has. Within `tie` of the fastest, one with memory to spare and then the simplest
    leads. `also` are layouts to consider beside those of the space; say puts a change into words.
    Raises PlanError if nothing fits or the batch divides over no degree.
    """
    predict, final = time_of or step_times, time_of or partial(step_times, intervals=True)
    limit = space.device.memory_bytes if memory_limit_bytes is None else memory_limit_bytes
    if keep < 1 or not limit > 0:
        raise SpecError("layout search: keep and memory limit", found=(keep, limit), expected="> 0")
    search = _Search(space, memory_of or needed_for, limit)
    for mesh, sizes in space.meshes():
        _fit(search, mesh, sizes)
    given = set(also)
    for layout in given:
        _fit_given(search, layout)
    if not search.fitting:
        raise _refusal(search, say)
    timed = _timed(search.fitting, predict)
    ranked = _certain(_simplest_first(timed, given, tie, limit)[:keep], final)
    best = ranked[0]
    lighter = _timed(_lighter(search, [*timed[: 3 * keep], *_front(timed)]), predict)
    front = _front(sorted([*timed, *lighter], key=lambda item: item.seconds))
    return SearchResult(
        best=best,
        ranked=tuple(replace(item, why=_why(item, best)) for item in ranked),
        pareto=tuple(replace(item, why=_why(item, best)) for item in _certain(front, final)),
        limit_bytes=limit,
        examined=search.examined,
        evaluated=search.evaluated,
        dominated=search.dominated,
        infeasible=dict(search.infeasible),
    )


def _refusal(search: _Search, say: Say) -> PlanError:
    if set(search.infeasible) <= {NO_BATCH}:
        return search.space.refuse_batch()
    space = search.space
    changes = cheapest_changes(space, search.memory_of, search.limit_bytes, say=say)
    return PlanError(
        f"no layout of {space.shape.name} on {space.devices} {space.device.name} fits",
        found="; ".join(f"{count} layouts: {why}" for why, count in search.infeasible.items()),
        expected=f"at most {search.limit_bytes / GIB:.1f} GiB per device",
        do="; or ".join(changes) or "use a smaller model: no single change is enough",
    )


def _fit(search: _Search, mesh: Mesh, sizes: list[int]) -> None:
    """Layouts of a mesh within the limit; heavier recomputations only where they are needed."""
    space = search.space
    options = space.recomputations()
    layouts = max(1, len(sizes)) * len(options)
    search.examined += layouts
    if not sizes:
        search.infeasible[NO_BATCH] += layouts
        return
    least = search.memory_of(space.job(space.layout(mesh, sizes[0], options[-1])))
    if least > FAR * search.limit_bytes:
        search.infeasible[FAR_TOO_MUCH] += layouts
        return
    for at, size in enumerate(sizes):
        found = 0
        for rank, option in enumerate(options):
            if not search.fits(space.layout(mesh, size, option), search.fitting):
                search.infeasible[TOO_MUCH] += 1
                continue
            found += 1
            if rank == 0:  # nothing to recompute: heavier ones are only slower
                search.dominated += len(options) - 1
                break
        search.evaluated += found
        if not found:  # larger micro-batches hold more
            search.infeasible[TOO_MUCH] += (len(sizes) - at - 1) * len(options)
            return


def _fit_given(search: _Search, layout: Layout) -> None:
    """A layout the caller named: whatever can be run is considered."""
    if any(job.layout == layout for job, _ in search.fitting):
        return
    search.examined += 1
    try:
        reason = NO_JOB if layout.devices != search.space.devices else TOO_MUCH
        if reason is TOO_MUCH and search.fits(layout, search.fitting):
            search.evaluated += 1
            return
    except SpecError:
        reason = NO_JOB
    search.infeasible[reason] += 1


def _timed(
    entries: Sequence[tuple[TrainingJob, float]], time_of: TimeOf
) -> list[RankedLayout]:  # fmt: skip
    """Fastest first."""
    steps = time_of([job for job, _ in entries]) if entries else []
    found = [
        RankedLayout(job, step, peak) for (job, peak), step in zip(entries, steps, strict=True)
    ]
    return sorted(found, key=lambda item: item.seconds)


def _lighter(search: _Search, items: Sequence[RankedLayout]) -> list[tuple[TrainingJob, float]]:
    """These layouts with more recomputation: the front of time and memory needs them."""
    found: list[tuple[TrainingJob, float]] = []
    first, *heavier = search.space.recomputations()
    for layout in dict.fromkeys(item.layout for item in items):
        if (layout.recompute, layout.recompute_parts) == first:
            for kind, parts in heavier:
                search.fits(layout.with_(recompute=kind, recompute_parts=parts), found)
    return found


def _effort(layout: Layout) -> tuple[int, ...]:
    """Simpler layouts first: fewer kinds of parallelism, less recomputation, smaller degrees."""
    degrees = (layout.tp, layout.pp, layout.vpp, layout.cp, layout.ep)
    kinds = sum(degree > 1 for degree in degrees) + (layout.shard_devices is not None)
    recompute = ("none", "selective", "full").index(layout.recompute)
    return kinds, recompute, prod(degrees), layout.micro_batch


def _simplest_first(
    timed: list[RankedLayout], given: set[Layout], tie: float, limit_bytes: float
) -> list[RankedLayout]:
    """By time. Of those that tie with the fastest, one with memory to spare leads, then the
    simplest; never one slower than a layout given."""
    most = timed[0].seconds * (1 + tie)
    most = min([most, *(item.seconds for item in timed if item.layout in given)])
    tied = [item for item in timed if item.seconds <= most]
    best = min(
        tied,
        key=lambda i: (i.peak_bytes > ROOM * limit_bytes, _effort(i.layout), i.seconds),
    )
    return [best, *(item for item in timed if item is not best)]


def _front(timed: list[RankedLayout]) -> list[RankedLayout]:
    """Each needs less memory, by 1% or more, than every faster one; `timed` is sorted by time."""
    front: list[RankedLayout] = []
    for item in timed:
        if not front or item.peak_bytes < 0.99 * front[-1].peak_bytes:
            front.append(item)
    return front


def _certain(items: Sequence[RankedLayout], time_of: TimeOf) -> list[RankedLayout]:
    """With intervals."""
    steps = time_of([item.job for item in items])
    return [replace(item, step=step) for item, step in zip(items, steps, strict=True)]


def _why(item: RankedLayout, best: RankedLayout) -> str:
    """The parts of the step that grew most against the best, and what it saves for them."""
    if item.layout == best.layout:
        return ""
    slower = item.seconds / best.seconds - 1
    ours, theirs = item.step.parts_s, best.step.parts_s
    change = {name: ours.get(name, 0) - theirs.get(name, 0) for name in {**theirs, **ours}}
    worst = sorted(change, key=lambda name: change[name], reverse=True)
    least = 0.001 * best.seconds
    words = f"{slower:+.1%} time" if abs(slower) > TIE else f"ties in time ({slower:+.1%})"
    if grown := [name for name in worst[:2] if change[name] > least]:
        words += ": " + ", ".join(f"{part_name(name)} {change[name]:+.3g} s" for name in grown)
    if change and change[worst[-1]] < -least:
        words += f" against {part_name(worst[-1])} {change[worst[-1]]:+.3g} s"
    return f"{words}; memory {(item.peak_bytes - best.peak_bytes) / GIB:+.1f} GiB"
