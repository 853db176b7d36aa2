"""What would make some layout fit: changes on the same devices, then more or larger devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from whorl.stages.plan.cluster.devices import Device, device, device_names
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.remedies import (
    FREE,
    MOST,
    MemoryOf,
    Say,
    named,
    priced,
    same_devices,
)
from whorl.stages.plan.cluster.search_space import SearchSpace

__all__ = ["cheapest_changes", "lightest", "more_devices"]

TRIED_MESHES = 200  # the most split, enough to find one that fits
MOST_TIMES_DEVICES = 256


def cheapest_changes(
    space: SearchSpace,
    memory_of: MemoryOf,
    limit_bytes: float,
    say: Say = named,
) -> list[str]:
    """Up to three changes in words, each of which makes some layout fit: on the same devices, then
    more devices, and devices with more memory. Recomputation, micro-batch and sharding are the
    search's own to choose and so no change, but where recomputation was not allowed.
    """
    found = []
    if "full" not in space.recompute and space.device.measured is None:
        wider = replace(space, recompute=(*space.recompute, "full"))
        found += ["allow full recomputation"] if fits_some(wider, memory_of, limit_bytes) else []
    job = lightest(space, memory_of)
    if job is not None:
        ways = same_devices(job, memory_of, limit_bytes, skip=FREE)
        found += [priced(item, say) for item in ways]
    others = list(islice(more_devices(space, memory_of, limit_bytes), MOST))
    return [*found[: MOST - bool(others)], *others][:MOST]


def _most_split(space: SearchSpace) -> list[TrainingJob]:
    """Smallest micro-batch, most recomputation; the most split first."""
    meshes = [(mesh, sizes[0]) for mesh, sizes in space.meshes() if sizes and mesh.vpp == 1]
    meshes.sort(key=lambda item: (item[0].shard, item[0].tp * item[0].pp * item[0].ep * item[0].cp))
    option = space.recomputations()[-1]
    most = meshes[: -TRIED_MESHES - 1 : -1]
    return [space.job(space.layout(mesh, size, option)) for mesh, size in most]


def lightest(space: SearchSpace, memory_of: MemoryOf) -> TrainingJob | None:
    """The job with the least memory; None where the batch divides over no degree."""
    return min(_most_split(space), key=memory_of, default=None)


def fits_some(space: SearchSpace, memory_of: MemoryOf, limit_bytes: float) -> bool:
    return any(memory_of(job) <= limit_bytes for job in _most_split(space))


def more_devices(space: SearchSpace, memory_of: MemoryOf, limit: float) -> Iterator[str]:
    """More of the same devices, as many larger ones, more of those: each lets something fit."""

    if space.device.measured is not None:
        return

    def fits(changed: SearchSpace) -> bool:
        within = limit * changed.device.memory_bytes / space.device.memory_bytes
        return fits_some(changed, memory_of, within)

    if count := _fewest_devices(space, fits):
        yield f"use {count} {space.device.name}"
    larger = [space.on(item, space.devices) for item in _larger(space.device)]
    if enough := next(filter(fits, larger), None):
        yield f"use {space.devices} {enough.device.name}"
    for changed in larger:
        if count := _fewest_devices(changed, fits):
            yield f"use {count} {changed.device.name}"


def _fewest_devices(space: SearchSpace, fits: Callable[[SearchSpace], bool]) -> int | None:
    """The smallest count of whole nodes (below one node: of devices) on which something fits."""

    def able(count: int) -> bool:
        return fits(space.on(space.device, count))

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
    """Devices of the same kind with more memory in nodes as large, cheapest first."""
    every = [device(name) for name in device_names()]
    alike = [d for d in every if d.kind == small.kind and d.node_devices >= small.node_devices]
    larger = [d for d in alike if d.memory_bytes > small.memory_bytes]
    return sorted(larger, key=lambda d: (d.usd_per_hour, d.memory_bytes))
