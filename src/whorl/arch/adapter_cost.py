"""What low-rank adapters cost: parameters, bytes and FLOPs, without torch.

An adapter of rank r beside a frozen matrix W [rows, columns] is two matrices, A [r, columns] and
B [rows, r] (LoRA, arXiv 2106.09685); DoRA (2402.09353) adds one magnitude a row. Only they have
gradients and optimiser state. The frozen matrices may be kept in fewer bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from whorl.arch.layers import LayerMatrix, layer_kinds, layer_matrices
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import BACKWARD_PER_FORWARD, count_shape, flops_per_token
from whorl.core.errors import SpecError

__all__ = [
    "ALL",
    "NF4_BLOCK",
    "AdapterCost",
    "FrozenBase",
    "adapter_cost",
    "check_last_layers",
    "check_targets",
    "is_adaptable",
]

ALL = "all"  # every projection of the blocks
HEAD = "lm_head"
NF4_BLOCK = 64  # elements that share one scale (QLoRA, arXiv 2305.14314)
SCALE_BYTES = 4
ADAPTED_KINDS = ("attention", "ffn", "shared")  # routed experts are no linear layers of their own
FrozenBase = Literal["none", "int8", "nf4"]


@dataclass(frozen=True)
class AdapterCost:
    """Of a whole model that is taught through adapters, before any sharding."""

    parameters: int  # that train
    layer_share: float  # of the blocks, the last ones: those that have adapters and a backward
    frozen_bytes: int  # the base in memory: fp32, or packed where it is quantised
    training_flops: float  # of one token, forward and backward: no gradients of frozen weights


def is_adaptable(matrix: LayerMatrix) -> bool:
    """Whether an adapter may stand beside it: a linear layer that is no router or gate."""
    return matrix.kind in ADAPTED_KINDS and matrix.name != "shared_gate"


def check_targets(targets: Literal["all"] | Sequence[str], known: Collection[str]) -> None:
    """Raises SpecError if a target is none of the names of the model's linear layers."""
    if targets == ALL or not (unknown := [name for name in targets if name not in known]):
        return
    raise SpecError(
        "train.lora.targets: the model has no linear layer of that name",
        found=", ".join(unknown),
        expected=f"{ALL}, or some of {', '.join(sorted(known))}",
        do="the head is a layer of its own only where it is not tied to the embedding"
        if HEAD in unknown
        else None,
    )


def check_last_layers(last: int | None, layers: int) -> None:
    """Raises SpecError if the model has not so many blocks."""
    if last is not None and last > layers:
        raise SpecError(
            "train.lora.last_layers is more than the model has",
            found=last,
            expected=f"at most {layers}",
        )


def adapter_cost(
    shape: ModelShape,
    seq_len: int,
    rank: int,
    targets: Literal["all"] | Sequence[str] = ALL,
    dora: bool = False,
    base: FrozenBase = "none",
    last_layers: int | None = None,
) -> AdapterCost:
    """Adapters of a rank on the matrices whose names are targets, over a base kept in `base`.

    last_layers: they stand in so many blocks only, the last ones; None: in all.

    A token's backward is one product per frozen matrix, and two per adapter's.

    Raises SpecError if there are not so many blocks, or a dense model has no layer of a target's
    name (the names of routers and of layers of a package are the model's own).
    """
    check_last_layers(last_layers, shape.layers)
    if shape.experts is None and not shape.block:
        names = {matrix.name for _, matrix in _matrices(shape)}
        check_targets(targets, names if shape.tied_embeddings else names | {HEAD})
    share = 1.0 if last_layers is None else last_layers / shape.layers
    parameters = 0
    adapter_flops = frozen_bytes = 0.0
    quantised = 0
    for number, matrix in _matrices(shape):
        if is_adaptable(matrix) and (targets == ALL or matrix.name in targets):
            added = rank * (matrix.rows + matrix.columns)
            adapted = round(share * number)
            parameters += adapted * (added + dora * matrix.rows)
            adapter_flops += adapted * 2 * added
        if base != "none" and is_adaptable(matrix):
            quantised += number * matrix.elements
            frozen_bytes += number * _packed_bytes(matrix, base)
    if targets != ALL and HEAD in targets:
        added = rank * (shape.vocab_size + shape.width)
        parameters += added + dora * shape.vocab_size
        adapter_flops += 2 * added
    flops = flops_per_token(shape, seq_len)
    frozen_backward = share * (flops.blocks + flops.router) + flops.head
    pairs_backward = share * BACKWARD_PER_FORWARD * flops.attention
    forward = flops.forward + adapter_flops
    backward = frozen_backward + pairs_backward + BACKWARD_PER_FORWARD * adapter_flops
    return AdapterCost(
        parameters=parameters,
        layer_share=share,
        frozen_bytes=round(frozen_bytes) + 4 * (count_shape(shape).total - quantised),
        training_flops=forward + backward,
    )


def _matrices(shape: ModelShape) -> list[tuple[int, LayerMatrix]]:
    """(layers that have it, a matrix), of every kind of layer."""
    kinds = layer_kinds(shape).items()
    return [(n, matrix) for kind, n in kinds for matrix in layer_matrices(shape, kind)]


def _packed_bytes(matrix: LayerMatrix, base: FrozenBase) -> float:
    """int8: one scale a row; nf4: two elements a byte, one scale a block."""
    if base == "int8":
        return matrix.elements + SCALE_BYTES * matrix.rows
    return matrix.elements / 2 + SCALE_BYTES * -(-matrix.elements // NF4_BLOCK)
