"""What would make a job fit on the devices it has: refusals, `--why-oom` and the search ask here.

A change is tried on the job itself, so its bytes and its price in time are those of the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import GIB
from whorl.stages.plan.cluster.job import Lora, TrainingJob
from whorl.stages.plan.cluster.step import Model, step_times
from whorl.stages.plan.software import software

__all__ = [
    "CHANGES",
    "FREE",
    "MOST",
    "MemoryOf",
    "Remedy",
    "Say",
    "named",
    "priced",
    "remedies",
    "same_devices",
    "together",
]

LEAST_SAVED = 0.01  # of the peak: less is no change worth a word
SHORTEST = 512  # tokens of a sequence
MOST = 3

MemoryOf = Callable[[TrainingJob], float]  # peak bytes of the fullest rank
Changed = TrainingJob | None  # None: the change is nothing new, or this software cannot


@dataclass(frozen=True)
class Remedy:
    """One change, or several together, with what it costs."""

    names: tuple[str, ...]  # of CHANGES
    job: TrainingJob
    peak_bytes: float
    saved_bytes: float
    slower: float  # time of a token against the job asked for, minus one
    fits: bool


Say = Callable[[Remedy], str]


def _layout(job: TrainingJob, **changes: object) -> Changed:
    changed = job.layout.with_(**changes)
    return None if changed == job.layout else replace(job, layout=changed)


def _recomputed_in_part(job: TrainingJob) -> Changed:
    able = software(job.stack).selects_products or job.stack.startswith("megatron")
    if job.layout.recompute != "none" or not able:
        return None
    parts = () if software(job.stack).selects_products else ("layernorm", "mlp")
    return _layout(job, recompute="selective", recompute_parts=parts)


def _by_deepspeed(job: TrainingJob) -> TrainingJob:
    """What shards or offloads for the Trainer and its kin."""
    return replace(job, stack="deepspeed") if job.stack == "hf" else job


def _sharded(job: TrainingJob) -> Changed:
    """The heaviest sharding that the software has."""
    job = _by_deepspeed(job)
    order = ("none", "zero1", "zero2", "zero3")
    able = software(job.stack).shards[job.layout.pp > 1]
    above = [item for item in able if order.index(item) > order.index(job.layout.shard)]
    alone = job.layout.dp * job.layout.cp == 1
    return None if alone or not above else _layout(job, shard=above[-1])


def _is_torch(job: TrainingJob) -> bool:
    """Whether the software lets its user choose loss, types and optimiser."""
    return software(job.stack).rates in ("fsdp", "eager")


def _chunked(job: TrainingJob) -> Changed:
    able = _is_torch(job) and job.loss != "chunked"
    return replace(job, loss="chunked") if able else None


def _optimizer(name: str) -> Callable[[TrainingJob], Changed]:
    def change(job: TrainingJob) -> Changed:
        lighter = ("adamw", "adamw_8bit" if name.startswith("paged") else "paged_adamw")
        able = _is_torch(job) or (name == "adamw_8bit" and job.stack.startswith("megatron"))
        return replace(job, optimizer=name) if able and job.optimizer in lighter else None  # type: ignore[arg-type]

    return change


def _two_bytes(job: TrainingJob) -> Changed:
    able = job.precision == "bf16" and _is_torch(job)  # in fp16 updates are lost
    return replace(job, pure_low_precision=True) if able and not job.pure_low_precision else None


def _step_in_backward(job: TrainingJob) -> Changed:
    able = job.stack == "torchtune" and job.micro_batches == 1
    return None if job.step_in_backward or not able else replace(job, step_in_backward=True)


def _states_on_host(job: TrainingJob) -> Changed:
    if job.lora is not None:
        return None
    job = _by_deepspeed(job)
    spread = job.layout.dp * job.layout.cp > 1 and job.layout.shard == "none"
    more = {"shard": "zero2"} if spread and job.stack == "deepspeed" else {}  # it needs a stage
    return _layout(job, offload_optimizer=True, **more)


def _shorter(job: TrainingJob) -> Changed:
    half = job.seq_len // 2
    if half < SHORTEST or job.seq_len % 2:
        return None
    return replace(job, seq_len=half, global_batch=2 * job.global_batch)


def _adapters(base: str) -> Callable[[TrainingJob], Changed]:
    def change(job: TrainingJob) -> Changed:
        if job.lora is not None and (base == "none" or job.lora.base != "none"):
            return None
        pretrains = job.task == "pretrain"
        if pretrains and job.layout.devices > 1:
            return None
        stack = "hf" if pretrains and not _is_torch(job) else job.stack
        lora = replace(job.lora or Lora(targets="all"), base=base)  # type: ignore[arg-type]
        learning = job.learning
        if learning.other == "model" and learning.teacher is None:  # the base, adapters off
            learning = replace(learning, other="adapters")
        return replace(job, task="lora", lora=lora, stack=stack, learning=learning)

    return change


# In the order of trying: what costs least comes first, what changes the training last.
CHANGES: Mapping[str, Callable[[TrainingJob], Changed]] = {
    "loss": _chunked,
    "optimizer": _optimizer("adamw_8bit"),
    "recompute_selective": _recomputed_in_part,
    "micro_batch": lambda job: _layout(
        job, micro_batch=min(job.layout.micro_batch, job.per_example)
    ),
    "step_in_backward": _step_in_backward,
    "shard": _sharded,
    "recompute": lambda job: _layout(job, recompute="full", recompute_parts=()),
    "precision": _two_bytes,
    "paged": _optimizer("paged_adamw_8bit"),
    "offload": _states_on_host,
    "seq": _shorter,
    "lora": _adapters("none"),
    "qlora": _adapters("nf4"),
}
OTHER_TRAINING = ("seq", "lora", "qlora")  # something else is learned
SAME_TRAINING = tuple(name for name in CHANGES if name not in OTHER_TRAINING)
FREE = ("recompute_selective", "micro_batch", "recompute", "shard")  # a search sets them itself


def _able(name: str, job: TrainingJob) -> Changed:
    try:
        changed = CHANGES[name](job)
        if changed is not None and changed.device.measured is not None:
            changed.device.measured.memory(changed)
    except SpecError:
        return None
    return None if changed == job else changed


def _priced(
    job: TrainingJob,
    found: Sequence[tuple[tuple[str, ...], TrainingJob]],
    memory_of: MemoryOf,
    limit: float,
    model: Model | None,
) -> list[Remedy]:
    if not found:
        return []
    before, jobs = memory_of(job), [job, *(one for _, one in found)]
    steps = zip(step_times(jobs, model), jobs, strict=True)
    times = [step.step_s / one.tokens_per_step for step, one in steps]  # of a token
    made = []
    for (names, changed), time in zip(found, times[1:], strict=True):
        peak = memory_of(changed)
        cost = time / times[0] - 1
        made.append(Remedy(names, changed, peak, before - peak, cost, peak <= limit))
    return made


def remedies(
    job: TrainingJob, memory_of: MemoryOf, limit_bytes: float, model: Model | None = None
) -> list[Remedy]:
    """Every single change on the same devices that saves memory, those that are enough first, each
    by its price in time. Sequences are halved as often as it takes."""
    tried: list[tuple[tuple[str, ...], TrainingJob]] = []
    for name in CHANGES:
        changed = _able(name, job)
        if name == "seq":
            while changed is not None and memory_of(changed) > limit_bytes:
                further = _able(name, changed)
                if further is None:
                    break
                changed = further
        if changed is not None:
            tried.append(((name,), changed))
    least = LEAST_SAVED * memory_of(job)
    found = _priced(job, tried, memory_of, limit_bytes, model)
    worth = [item for item in found if item.saved_bytes >= least]

    def rank(item: Remedy) -> tuple[bool, bool, float]:
        changes_training = item.names[0] in OTHER_TRAINING
        return not item.fits, changes_training, item.slower if item.fits else -item.saved_bytes

    return sorted(worth, key=rank)


def together(
    job: TrainingJob,
    memory_of: MemoryOf,
    limit_bytes: float,
    model: Model | None = None,
    *,
    only: Sequence[str] = SAME_TRAINING,
    first: Sequence[str] = (),
) -> Remedy | None:
    """The first changes of `only` that are enough together, none of them superfluous; after
    `first`, which are taken anyhow. None where all are not enough."""

    def after(names: Sequence[str]) -> Changed:
        changed: Changed = job
        for name in names:
            nxt = _able(name, changed) if changed is not None else None
            changed = changed if nxt is None else nxt
        return changed

    used = [name for name in first if _able(name, job) is not None]
    current = after(used)
    if current is None or len(used) < len(first):
        return None
    for name in only:
        if memory_of(current) <= limit_bytes:
            break
        changed = _able(name, current)
        if changed is not None and memory_of(changed) < (1 - LEAST_SAVED) * memory_of(current):
            used.append(name)
            current = changed
    if memory_of(current) > limit_bytes:
        return None
    for name in [name for name in used if name not in first]:
        without = [other for other in used if other != name]
        trial = after(without)
        if trial is not None and memory_of(trial) <= limit_bytes:
            used, current = without, trial
    return _priced(job, [(tuple(used), current)], memory_of, limit_bytes, model)[0]


def named(remedy: Remedy) -> str:
    """The names of the changes; stages/plan/ask/answers.py has the words people ask in."""
    return " and ".join(remedy.names)


def priced(remedy: Remedy, say: Say = named) -> str:
    """In words, with its GiB and its price in time."""
    return f"{say(remedy)} ({remedy.peak_bytes / GIB:.1f} GiB, {remedy.slower:+.0%} time)"


def same_devices(
    job: TrainingJob,
    memory_of: MemoryOf,
    limit_bytes: float,
    model: Model | None = None,
    *,
    skip: Sequence[str] = (),
) -> list[Remedy]:
    """Up to three ways to fit on the same devices: single changes, then several together, of the
    same training before adapters."""
    single = [item for item in remedies(job, memory_of, limit_bytes, model) if item.fits]
    found = [item for item in single if item.names[0] not in skip]
    same = tuple(name for name in SAME_TRAINING if name not in skip)
    wider = (*same, "seq")
    for only, first in ((same, ()), (wider, ("lora",)), (wider, ("qlora",))):
        if len(found) >= MOST:
            break
        several = together(job, memory_of, limit_bytes, model, only=only, first=first)
        if several is not None and all(item.names != several.names for item in found):
            found.append(several)
    return found[:MOST]
