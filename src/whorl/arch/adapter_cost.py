"""What low-rank adapters cost: parameters, bytes and FLOPs, without torch.

An adapter of rank r beside a frozen matrix W [rows, columns] is two matrices, A [r, columns] and
B [rows, r] (LoRA, arXiv 2106.09685); DoRA (2402.09353) adds one magnitude a row. Only they have
gradients and optimiser state. The frozen matrices may be kept in fewer bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    BACKWARD_PER_FORWARD,
    OTHER_MOMENTS,
    LayerKind,
    LayerMatrix,
    count_shape,
    flops_per_token,
    layer_matrices,
)

__all__ = ["ALL", "NF4_BLOCK", "AdapterCost", "FrozenBase", "adapter_cost", "is_adaptable"]

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
    adapter_bytes: int  # of those, their gradients and AdamW's two moments, all fp32
    frozen_bytes: int  # the base in memory: fp32, or packed where it is quantised
    largest_unpacked_bytes: int  # a quantised matrix made fp32 for one product; 0: none is
    forward_flops: float  # of one token, base and adapters, at the given length of sequences
    training_flops: float  # of one token, forward and backward: no gradients of frozen weights
    flops_per_forward: float  # of every forward whatever its tokens: DoRA's norms, unpacking

    @property
    def total_bytes(self) -> int:
        """All that stays in memory between steps."""
        return self.adapter_bytes + self.frozen_bytes


def is_adaptable(matrix: LayerMatrix) -> bool:
    """Whether an adapter may stand beside it: a linear layer that is no router or gate."""
    return matrix.kind in ADAPTED_KINDS and matrix.name != "shared_gate"


def adapter_cost(
    shape: ModelShape,
    seq_len: int,
    rank: int,
    targets: Literal["all"] | Sequence[str] = ALL,
    dora: bool = False,
    base: FrozenBase = "none",
) -> AdapterCost:
    """Adapters of a rank on the matrices whose names are targets, over a base kept in `base`.

    training_flops is what sft costs; dpo adds one more forward_flops for the reference, which is
    the base itself. A token's backward is one product per frozen matrix, and two per adapter's.
    """
    parameters = 0
    adapter_flops = frozen_bytes = per_forward = 0.0
    largest = quantised = 0
    for number, matrix in _matrices(shape):
        if is_adaptable(matrix) and (targets == ALL or matrix.name in targets):
            added = rank * (matrix.rows + matrix.columns)
            parameters += number * (added + dora * matrix.rows)
            adapter_flops += number * 2 * added
            # the product B A, the sum with W, squares and their sum
            per_forward += number * dora * (2 * rank + 3) * matrix.elements
        if base != "none" and is_adaptable(matrix):
            quantised += number * matrix.elements
            frozen_bytes += number * _packed_bytes(matrix, base)
            largest = max(largest, 4 * matrix.elements)
            per_forward += number * 2 * matrix.elements  # forward and backward, one multiply each
    if targets != ALL and HEAD in targets:
        added = rank * (shape.vocab_size + shape.width)
        parameters += added + dora * shape.vocab_size
        adapter_flops += 2 * added
        per_forward += dora * (2 * rank + 3) * shape.vocab_size * shape.width
    flops = flops_per_token(shape, seq_len)
    frozen_backward = flops.blocks + flops.head + flops.router
    pairs_backward = BACKWARD_PER_FORWARD * flops.attention
    forward = flops.forward + adapter_flops
    backward = frozen_backward + pairs_backward + BACKWARD_PER_FORWARD * adapter_flops
    return AdapterCost(
        parameters=parameters,
        adapter_bytes=4 * (2 + OTHER_MOMENTS) * parameters,
        frozen_bytes=round(frozen_bytes) + 4 * (count_shape(shape).total - quantised),
        largest_unpacked_bytes=largest,
        forward_flops=forward,
        training_flops=forward + backward,
        flops_per_forward=per_forward,
    )


def _matrices(shape: ModelShape) -> list[tuple[int, LayerMatrix]]:
    """(layers that have it, a matrix), of every kind of layer."""
    kinds: list[tuple[int, LayerKind]] = [
        (shape.layers - shape.expert_layers, "dense"),
        (shape.expert_layers, "expert"),
    ]
    return [
        (number, matrix)
        for number, kind in kinds
        if number
        for matrix in layer_matrices(shape, kind)
    ]


def _packed_bytes(matrix: LayerMatrix, base: FrozenBase) -> float:
    """int8: one scale a row; nf4: two elements a byte, one scale a block."""
    if base == "int8":
        return matrix.elements + SCALE_BYTES * matrix.rows
    return matrix.elements / 2 + SCALE_BYTES * -(-matrix.elements // NF4_BLOCK)
