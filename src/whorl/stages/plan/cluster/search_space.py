"""Which layouts a job may have: the degrees that divide, what the stack can run, what is useful.

The rules, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from whorl.arch.shape import ModelShape
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.job import Layout, Recompute, Schedule, Shard, Stack, TrainingJob
from whorl.stages.plan.software import software

__all__ = ["Mesh", "Recomputation", "SearchSpace"]

SHORTEST_SLICE_TOKENS = 4096  # context parallelism below this only adds traffic
MOST_TOKENS_PER_PASS = 65_536  # a larger micro-batch makes no matrix product faster
WIDEST_TP = 64
MOST_UNEVEN = 1.15  # depth of the deepest pipeline stage over the mean
HYBRID_NODES = (1, 8, 32)  # nodes that one copy of the shards may span, besides all

Recomputation = tuple[Recompute, tuple[str, ...]]


class Mesh(NamedTuple):
    """The degrees of a layout, before micro-batch and recomputation."""

    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    shard: Shard
    shard_devices: int | None


@dataclass(frozen=True)
class SearchSpace:
    """All layouts of a job; of its own layout the devices and what goes to the host count alone."""

    like: TrainingJob
    recompute: tuple[Recompute, ...] = ("none", "selective", "full")

    def __post_init__(self) -> None:
        if not self.recompute:
            raise SpecError("layout search: recompute", found="none allowed", expected="at least 1")
        software(self.stack)

    @property
    def shape(self) -> ModelShape:
        return self.like.shape

    @property
    def device(self) -> Device:
        return self.like.device

    @property
    def devices(self) -> int:
        return self.like.layout.devices

    @property
    def global_batch(self) -> int:
        return self.like.global_batch

    @property
    def stack(self) -> Stack:
        return self.like.stack

    def on(self, device: Device, devices: int) -> SearchSpace:
        """The same job elsewhere."""
        layout = Layout(devices, offload_optimizer=self.like.layout.offload_optimizer)
        return replace(self, like=replace(self.like, device=device, layout=layout))

    def layout(self, mesh: Mesh, micro_batch: int, recompute: Recomputation) -> Layout:
        schedule: Schedule = "interleaved" if mesh.vpp > 1 else "1f1b"
        offload = self.like.layout.offload_optimizer
        return Layout(self.devices, *mesh, micro_batch, *recompute, True, schedule, offload)

    def job(self, layout: Layout) -> TrainingJob:
        """Raises SpecError if the job cannot be run."""
        return replace(self.like, layout=layout)

    def tps(self) -> list[int]:
        """Within a node, dividing heads and feed-forward; keys are divided or copied whole."""
        if software(self.stack).of_data:
            return [1]
        heads, kv_heads = self.shape.attention.heads, self.shape.attention.kv_heads
        widest = min(self.device.node_devices, self.devices, heads, WIDEST_TP)
        return [
            tp
            for tp in _divisors(self.devices, widest)
            if heads % tp == 0
            and self.shape.ffn_width % tp == 0
            and (kv_heads % tp == 0 or (tp % kv_heads == 0 and self.stack != "megatron"))
        ]

    def pps(self) -> list[int]:
        """Stages of equal depth, or nearly."""
        if software(self.stack).of_data:
            return [1]
        return [pp for pp in _divisors(self.devices, self.shape.layers) if self._even(pp)]

    def vpps(self, pp: int, micro_batches: int) -> list[int]:
        """Chunks per rank; interleaving runs micro-batches in rounds of pp."""
        if pp == 1 or micro_batches % pp:
            return [1]
        most = self.shape.layers // pp
        return [vpp for vpp in range(1, most + 1) if vpp == 1 or self._even(pp * vpp, vpp)]

    def _even(self, stages: int, vpp: int = 1) -> bool:
        """Whether the layers, or they with embedding and head as two more, divide; else whether
        the deepest stage is little deeper than the mean (with 2^k chunks, to keep it few)."""
        layers = self.shape.layers
        if layers % stages == 0 or (layers + 2) % stages == 0:
            return True
        return _power(vpp) and -(-layers // stages) * stages <= MOST_UNEVEN * layers

    def cps(self) -> list[int]:
        """Slices of a sequence, two per rank (the causal mask balanced), not shorter than useful.

        With fewer sequences than devices the slices may be shorter: else devices would idle.
        """
        if software(self.stack).of_data:
            return [1]
        room = max(1, self.like.seq_len // SHORTEST_SLICE_TOKENS)
        if self.global_batch < self.devices:
            room = max(room, self.like.seq_len // (SHORTEST_SLICE_TOKENS // 4))
        return [
            cp
            for cp in _divisors(self.devices, room)
            if cp == 1 or (_power(cp) and self.like.seq_len % (2 * cp) == 0)
        ]

    def eps(self, ranks: int) -> list[int]:
        """Divisors of the experts that also divide the ranks of one pipeline stage."""
        if self.shape.experts is None or software(self.stack).of_data:
            return [1]
        count = self.shape.experts.count
        return [ep for ep in _divisors(count, count) if ranks % ep == 0]

    def shards(self, tp: int, pp: int, ranks: int) -> list[tuple[Shard, int | None]]:
        """What dp x cp = ranks may shard, over all of them or over whole nodes (hybrid)."""
        if ranks == 1:
            return [("none", None)]
        found: list[tuple[Shard, int | None]] = []
        for shard in software(self.stack).shards[pp > 1]:
            found.append((shard, None))
            if shard == "zero3" or (shard == "zero1" and self.stack == "internevo"):
                groups = [n * max(1, self.device.node_devices // tp) for n in HYBRID_NODES]
                found += [(shard, n) for n in groups if 1 < n < ranks and ranks % n == 0]
        return found

    def micro_batches(self, dp: int, cp: int) -> list[int]:
        """Sequences of one pass: whole examples that divide one rank's share of the batch."""
        if self.global_batch % dp:
            return []
        share = self.global_batch // dp
        whole = self.like.per_example
        most = max(whole, MOST_TOKENS_PER_PASS * cp // self.like.seq_len)
        return [size for size in _divisors(share, most) if size % whole == 0]

    def recomputations(self) -> list[Recomputation]:
        """Least recomputation first. Parts that the model has and the stack can name."""
        parts: list[tuple[str, ...]] = [("layernorm",), ("mlp",)]
        if self.shape.experts is not None:
            parts = [("layernorm", "moe_act"), ("moe",)]
            if self.shape.attention.latent is not None:
                parts.insert(1, ("layernorm", "mla_up_proj", "moe_act"))
        if software(self.stack).selects_products:
            parts = [()]
        elif software(self.stack).of_data:  # a Trainer's gradient checkpointing is of whole layers
            parts = []
        every: dict[Recompute, list[Recomputation]] = {
            "none": [("none", ())],
            "selective": [("selective", names) for names in parts],
            "full": [("full", ())],
        }
        return [item for kind in ("none", "selective", "full") if kind in self.recompute
                for item in every[kind]]  # fmt: skip

    def meshes(self) -> Iterator[tuple[Mesh, list[int]]]:
        """Every mesh with its micro-batches; an empty list: the batch does not divide by dp."""
        pps, cps = self.pps(), self.cps()
        for tp in self.tps():
            for pp in pps:
                for cp in cps:
                    if self.devices % (tp * pp * cp):
                        continue
                    dp = self.devices // (tp * pp * cp)
                    sizes = self.micro_batches(dp, cp)
                    if not sizes:
                        yield Mesh(tp, pp, 1, cp, 1, "none", None), []
                        continue
                    yield from self._of_degrees(tp, pp, cp, dp, sizes)

    def _of_degrees(
        self, tp: int, pp: int, cp: int, dp: int, sizes: list[int]
    ) -> Iterator[tuple[Mesh, list[int]]]:
        passes = {size: self.global_batch // (dp * size) for size in sizes}
        for vpp in self.vpps(pp, pp):
            able = [size for size in sizes if vpp in self.vpps(pp, passes[size])]
            if not able:
                continue
            for ep in self.eps(dp * cp * tp):
                for shard, group in self.shards(tp, pp, dp * cp):
                    yield Mesh(tp, pp, vpp, cp, ep, shard, group), able

    def refuse_batch(self) -> PlanError:
        """The error when the batch divides over no data-parallel degree."""
        dps = sorted({self.devices // (mesh.tp * mesh.pp * mesh.cp) for mesh, _ in self.meshes()})
        return PlanError(
            f"a global batch of {self.global_batch} sequences cannot be split over "
            f"{self.devices} devices",
            found=f"data-parallel degrees {', '.join(map(str, dps[:12]))}",
            expected="one of them dividing the global batch",
            do=f"use a multiple of {dps[0]}, such as {-(-self.global_batch // dps[0]) * dps[0]}",
        )


def _power(n: int) -> bool:
    """Of two."""
    return n & (n - 1) == 0


def _divisors(n: int, most: int) -> list[int]:
    return [d for d in range(1, min(n, most) + 1) if n % d == 0]
