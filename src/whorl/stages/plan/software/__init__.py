"""One frozen record per training software, from software.yaml: what it keeps in memory, which loss,
how it is timed. What the planner must know of it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from whorl.core.errors import SpecError
from whorl.stages.plan.facts import data_file

__all__ = [
    "LOGIT_BYTES",
    "SOFTWARE",
    "Loss",
    "Rates",
    "Shard",
    "Software",
    "StateBytes",
    "software",
]

Rates = Literal["2021", "fsdp", "xla", "internevo", "modern", "eager"]
Loss = Literal["eager", "fused", "chunked"]
Shard = Literal["none", "zero1", "zero2", "zero3"]
LOW = ("fp8", "fp8_block", "mxfp8", "nvfp4")
CHUNKS = 8  # of a chunked loss, at the least
# Bytes per logit alive at once. Eager: the product in 16 bits, its fp32 copy, the logarithms of
# its softmax and their gradient. Fused: the product and its gradient, both in 16 bits.
LOGIT_BYTES: dict[Loss, float] = {"eager": 2 + 3 * 4, "fused": 2 + 2, "chunked": 14 / CHUNKS}


@dataclass(frozen=True)
class StateBytes:
    """Bytes per element of a rank's weights, beside the optimiser's moments."""

    weights: float = 4.0  # fp32; what layers compute with is cast from them
    gradients: float = 4.0
    master: float = 0.0  # fp32 copy that the optimiser updates, over data ranks
    step_shard: float = 0.0  # temporaries of the optimiser's step, per element of its shard
    step_whole: float = 0.0  # and per element of whole weights
    step_of_whole: float = 0.0  # per element of the shard, where weights are held whole


@dataclass(frozen=True)
class Software:
    """One training software, by what its own sources and papers say it keeps and does."""

    name: str
    title: str  # for people
    rates: Rates  # the fitted constants that time it (seconds.py)
    loss: Loss
    kept: Mapping[str, StateBytes] = field(hash=False)  # by precision, experts; "usual"
    logit_bytes: float | None = None  # with its own loss; None: those of LOGIT_BYTES
    chunk_elements: float = 0.0  # logits of one chunk of its loss; 0: an eighth of all
    # what data parallelism may shard: on its own, and under a pipeline
    shards: tuple[tuple[Shard, ...], tuple[Shard, ...]] = (
        ("none", "zero1", "zero2", "zero3"),
        ("zero1", "zero2"),
    )
    of_data: bool = False  # models are spread by sharded data parallelism alone
    trains_pure: bool = False  # all training is in the weights' own 16 bits, unless told otherwise
    eager: Literal["never", "adapters", "always"] = "never"  # layers operation by operation
    selects_products: bool = False  # selective recomputation keeps every second product
    offloads_selected: bool = False  # selective recomputation leaves nothing on the device
    offloads_entries: bool = False  # layers' inputs, all that full recomputation keeps, go to RAM
    dropout: bool = False  # masks are kept
    autocast_readers: int = 2  # copies of a layer's input for products and norms
    norms_in_fp32: bool = False
    casts_whole: bool = False  # 16-bit copies of whole fp32 weights
    copies_gradients: bool = False  # replicated gradients stand in buckets a second time
    holds_outputs: bool = False  # a pipeline stage keeps its output for its backward pass
    buffers_stages: bool = False  # pipeline buffers of two per stage
    static_allocator: bool = False  # addresses are planned before the run
    zero: bool = False  # DeepSpeed's buckets, and its limit on what is gathered at once
    expert_moment_bytes: float = 4.0  # of each of Adam's two, in a mixture of experts
    fp8_activations: bool = False  # inputs of 8-bit products are kept in 8 bits
    quantises_head: bool = False  # a quantised base includes its head
    gathers_smallest: bool = False  # zero3 brings one layer together at a time
    chunks: int = 1  # model chunks per pipeline rank, where nothing is stated
    tables_in_root: bool = False  # zero3's outermost unit: gathered once, kept through the pass
    experts_apart: bool = False  # each matrix of each expert is a tensor of its own
    sends_once: bool = False  # a token for several experts of a rank or node: DeepEP, HybridEP
    experts_in_loop: bool = False  # one expert after the other, no grouped product
    host_optimizer_bytes_per_s: float = 25e9  # to the host (PCIe 4.0 x16), optimiser there

    @property
    def is_old(self) -> bool:
        """Of 2019 to 2022: unfused attention, whose masked half is computed too."""
        return self.rates == "2021"

    def states(self, precision: str, experts: bool, whole: bool) -> StateBytes:
        """Of one rank's elements. whole: each rank holds the weights that it computes with."""
        low = "low" if precision in LOW else precision
        of = next(self.kept[n] for n in (low, "experts" * experts, "usual") if n in self.kept)
        return replace(of, step_shard=of.step_shard + of.step_of_whole * whole)


def _read() -> tuple[dict[str, Software], dict[str, str]]:
    """(records by name, what people call them -> name)."""
    entries = dict(data_file("software/software.yaml"))
    aliases = {word: name for name, words in entries.pop("aliases").items() for word in words}
    found = {}
    for name, entry in entries.items():
        said = {**entries.get(entry.get("like", ""), {}), **entry}
        states = said.pop("states", {"usual": {}})
        kept = {key: StateBytes(**values) for key, values in states.items()}
        said.pop("like", None)
        if "shards" in said:
            said["shards"] = tuple(map(tuple, said["shards"]))
        found[name] = Software(name=name, kept=kept, **said)
    return found, aliases


SOFTWARE, ALIASES = _read()


def software(name: str) -> Software:
    """The record of a name or of what people call it. Raises SpecError with the names there are."""
    found = SOFTWARE.get(name)
    if found is None:
        key = name.strip().lower()
        found = SOFTWARE.get(ALIASES.get(key, key.replace("-", "_")))
    if found is None:
        raise SpecError("unknown training software", found=name, expected=", ".join(SOFTWARE))
    return found
