"""Why a layout is not one of a search's own."""

from __future__ import annotations

from collections.abc import Sequence

from whorl.stages.plan.cluster.job import Layout
from whorl.stages.plan.cluster.search_space import SearchSpace


def outside(space: SearchSpace, layout: Layout) -> str | None:
    """Why a layout is not enumerated (a search can be given it with `also`); None if it is."""
    ranks, passes = layout.dp * layout.cp, layout.dp * layout.micro_batch
    count = 0 if space.global_batch % passes else space.global_batch // passes
    group = layout.shard_devices if layout.sharded_over < ranks else None
    shard = ("none", None) if ranks == 1 else (layout.shard, group)
    rules: dict[str, tuple[object, Sequence[object]]] = {
        "devices": (layout.devices, [space.devices]),
        "tp": (layout.tp, space.tps()),
        "pp": (layout.pp, space.pps()),
        "cp": (layout.cp, space.cps()),
        "ep": (layout.ep, space.eps(ranks * layout.tp)),
        "micro_batch": (layout.micro_batch, space.micro_batches(layout.dp, layout.cp)),
        "vpp": (layout.vpp, space.vpps(layout.pp, count)),
        "shard": (shard, space.shards(layout.tp, layout.pp, ranks)),
        "recompute": ((layout.recompute, layout.recompute_parts), space.recomputations()),
    }
    for name, (value, allowed) in rules.items():
        if value not in allowed:
            return f"{name} {value}: not of {allowed}"
    return None
