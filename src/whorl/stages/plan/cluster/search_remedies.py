"""What would make a job fit that does not: the cheapest changes, tried in order of their price."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from whorl.stages.plan.cluster.devices import Device, device, device_names
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.search_space import SearchSpace

__all__ = ["MemoryOf", "cheapest_changes", "some_layout_fits"]

EIGHT_BIT = "8-bit AdamW (--optimizer adamw_8bit)"
HOST = "the optimiser state on the host (--layout offload_optimizer=1,recompute=full,…)"
TRIED_MESHES = 200  # the most split, enough to find one that fits
MOST_TIMES_DEVICES = 256

MemoryOf = Callable[[TrainingJob], float]  # peak bytes of the fullest rank


def cheapest_changes(
    space: SearchSpace, memory_of: MemoryOf, limit_bytes: float, most: int = 3
) -> list[str]:
    """Up to `most` changes, each of which alone makes some layout fit.

    In order of price: recomputation (a third more time), 8-bit moments, optimiser state on the
    host, shorter sequences (tokens per step kept), more devices, devices with more memory; where
    these are not enough, more devices with lighter states or more memory.
    """
    changes = _changes(space, memory_of, limit_bytes)
    return list(islice(changes, most))


def some_layout_fits(space: SearchSpace, memory_of: MemoryOf, limit_bytes: float) -> bool:
    """Whether the smallest micro-batch with the most recomputation fits on some mesh."""
    meshes = [(mesh, sizes[0]) for mesh, sizes in space.meshes() if sizes and mesh.vpp == 1]
    meshes.sort(key=lambda item: (item[0].shard, item[0].tp * item[0].pp * item[0].ep * item[0].cp))
    option = space.recomputations()[-1]
    return any(
        memory_of(space.job(space.layout(mesh, size, option))) <= limit_bytes
        for mesh, size in meshes[: -TRIED_MESHES - 1 : -1]  # the most split first
    )


def _changes(space: SearchSpace, memory_of: MemoryOf, limit: float) -> Iterator[str]:
    def fits(changed: SearchSpace) -> bool:
        within = limit * changed.device.memory_bytes / space.device.memory_bytes
        return some_layout_fits(changed, memory_of, within)

    name = space.device.name
    if "full" not in space.recompute and fits(replace(space, recompute=(*space.recompute, "full"))):
        yield "allow full recomputation"
    lighter = {EIGHT_BIT: replace(space, optimizer="adamw_8bit")}
    if space.optimizer != "adamw":
        lighter = {}
    if not space.offload_optimizer:
        lighter[HOST] = replace(space, offload_optimizer=True)
    yield from (f"train with {words}" for words, changed in lighter.items() if fits(changed))
    shorter = space.seq_len // 2
    while shorter >= 512 and space.seq_len % shorter == 0:
        batch = space.global_batch * (space.seq_len // shorter)
        if fits(replace(space, seq_len=shorter, global_batch=batch)):
            yield f"train on sequences of {shorter} tokens"
            break
        shorter //= 2
    if count := _fewest_devices(space, fits):
        yield f"use {count} {name}"
    larger = [replace(space, device=item) for item in _larger(space.device)]
    if enough := next(filter(fits, larger), None):
        yield f"use {space.devices} {enough.device.name}"
    for words, changed in lighter.items():
        if not fits(changed) and (count := _fewest_devices(changed, fits)):
            yield f"use {count} {name} with {words}"
    for changed in larger:
        if count := _fewest_devices(changed, fits):
            yield f"use {count} {changed.device.name}"


def _fewest_devices(space: SearchSpace, fits: Callable[[SearchSpace], bool]) -> int | None:
    """The smallest count of whole nodes (below one node: of devices) on which something fits."""

    def able(count: int) -> bool:
        return fits(replace(space, devices=count))

    node = space.device.node_devices
    if space.devices < node:
        for count in range(space.devices + 1, node + 1):
            if node % count == 0 and able(count):
                return count
    low = max(1, space.devices // node)
    high = low
    while high < low * MOST_TIMES_DEVICES:
        high *= 2
        if able(high * node):
            between = range(high // 2 + 1, high)
            step = max(1, len(between) // 16)  # counts in between, not each of thousands
            return next((n * node for n in between[::step] if able(n * node)), high * node)
    return None


def _larger(small: Device) -> list[Device]:
    """Devices of the same kind with more memory, cheapest first."""
    every = (device(name) for name in device_names())
    larger = [d for d in every if d.kind == small.kind and d.memory_bytes > small.memory_bytes]
    return sorted(larger, key=lambda d: (d.usd_per_hour, d.memory_bytes))
