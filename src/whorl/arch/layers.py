"""What the layers of any decoder are made of, as lists of their matrices.

`layer_matrices` is the single source: counts add it up, a time model walks it and tensor
parallelism divides it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

__all__ = [
    "LayerMatrix",
    "MatrixKind",
    "block_count",
    "blocks",
    "layer_kinds",
    "layer_matrices",
    "layer_norm_parameters",
    "layer_parts",
    "layers_with",
    "norm_parameters",
    "prediction_matrix",
]

MatrixKind = Literal["attention", "ffn", "router", "expert", "shared"]


@dataclass(frozen=True)
class LayerMatrix:
    """One weight matrix of a layer: y = x W^T + b, W of shape [rows, columns]."""

    name: str
    rows: int  # output features
    columns: int  # input features
    kind: MatrixKind
    count: int = 1  # copies that are stored: the number of experts
    active: int = 1  # copies that one token passes through
    biases: int = 0  # vectors of `rows` elements stored beside each copy

    @property
    def elements(self) -> int:
        """Of one copy, without its biases."""
        return self.rows * self.columns

    @property
    def parameters(self) -> int:
        """Of all copies, biases included."""
        return self.count * (self.elements + self.biases * self.rows)

    @property
    def active_parameters(self) -> int:
        """Of the copies one token passes through, biases included."""
        return self.active * (self.elements + self.biases * self.rows)

    @property
    def forward_flops(self) -> int:
        """Per token; a multiply-add is two."""
        return 2 * self.active * self.elements


def layer_kinds(shape: ModelShape) -> dict[str, int]:
    """Kinds of layers -> how many layers: "dense" and "expert", or those that `parts` names."""
    if shape.parts:
        return dict(Counter(shape.parts))
    dense = shape.layers - shape.expert_layers
    kinds = {"dense": dense, "expert": shape.expert_layers}
    return {kind: number for kind, number in kinds.items() if number}


def layer_parts(shape: ModelShape, kind: str) -> tuple[str, ...]:
    """What a layer of a kind is made of: of "attention", "scan", "dense" and "expert"."""
    if shape.parts:
        return tuple(kind.split("+"))
    mixing = "attention" if shape.attention.mixer is None else "scan"
    return (mixing, kind) if kind == "expert" or shape.ffn_width else (mixing,)


def layers_with(shape: ModelShape, part: str) -> int:
    """Layers that have attention, a scan, a dense block or experts."""
    kinds = layer_kinds(shape).items()
    return sum(number for kind, number in kinds if part in layer_parts(shape, kind))


def block_count(parts: tuple[str, ...]) -> int:
    """Blocks of a layer that read the residual stream and add to it: what mixes tokens is one."""
    return len({part in ("attention", "scan") for part in parts})


def blocks(shape: ModelShape) -> int:
    """Of all layers: two of most, one of Nemotron-H's and of Mamba's."""
    return sum(n * block_count(layer_parts(shape, kind)) for kind, n in layer_kinds(shape).items())


def layer_matrices(shape: ModelShape, kind: str) -> tuple[LayerMatrix, ...]:
    """Every matrix of one layer in the order of the forward pass. kind: of `layer_kinds`.

    A dense layer of a mixture of experts is one of its `experts.dense`. Raises SpecError if an
    expert layer is asked of a model without experts, or a scan of one without a mixer.
    """
    of = {"attention": _attention, "scan": _scan, "dense": _dense, "expert": _expert}
    return tuple(matrix for part in layer_parts(shape, kind) for matrix in of[part](shape))


def _dense(shape: ModelShape) -> tuple[LayerMatrix, ...]:
    return _mlp(shape, "ffn", shape.ffn_width)


def _expert(shape: ModelShape) -> tuple[LayerMatrix, ...]:
    experts = shape.experts
    if experts is None:
        raise SpecError(f"model {shape.name} has no experts", found="expert", expected="dense")
    biases = int(experts.router_bias) + int(experts.score_correction)
    router = LayerMatrix("router", experts.count, shape.width, "router", biases=biases)
    routed = _mlp(shape, "expert", experts.width, experts.count, experts.active, experts.latent)
    shared: tuple[LayerMatrix, ...] = ()
    if experts.shared:  # one block as wide as all of them, as the implementations have it
        inner = experts.shared * (experts.shared_width or experts.width)
        shared = _mlp(shape, "shared", inner)
        if experts.shared_gate:
            shared += (LayerMatrix("shared_gate", 1, shape.width, "shared"),)
    if experts.latent is not None:  # into the experts' width and back
        ends = (experts.latent, shape.width)
        shared += (LayerMatrix("latent_in", *ends, "shared"),)
        shared += (LayerMatrix("latent_out", *ends[::-1], "shared"),)
    return (router, *routed, *shared)


def _scan(shape: ModelShape) -> tuple[LayerMatrix, ...]:
    mixer = shape.attention.mixer
    if mixer is None:
        raise SpecError(f"model {shape.name} has no mixer", found="scan", expected="attention")
    return tuple(LayerMatrix(*matrix, "attention") for matrix in mixer.matrices)


def _attention(shape: ModelShape) -> tuple[LayerMatrix, ...]:
    a, width = shape.attention, shape.width
    bias = int(a.qkv_bias)
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    out = LayerMatrix("o_proj", width, a.heads * a.values, "attention", biases=int(a.output_bias))
    if a.latent is None:
        asked = queries * (1 + a.output_gate)
        inner = [("q_proj", asked), ("k_proj", keys), ("v_proj", a.kv_heads * a.values)]
        inputs = [LayerMatrix(name, n, width, "attention", biases=bias) for name, n in inner]
        return (*inputs, out)
    rank, kv_rank, rope = a.latent.query_rank, a.latent.kv_rank, a.latent.rope_dim
    expanded = a.heads * (a.head_dim - rope + a.values)
    if rank is None:
        query = [LayerMatrix("q_proj", queries, width, "attention")]
    else:
        query = [
            LayerMatrix("q_a_proj", rank, width, "attention", biases=bias),
            LayerMatrix("q_b_proj", queries, rank, "attention"),
        ]
    down = LayerMatrix("kv_a_proj", kv_rank + rope, width, "attention", biases=bias)
    return (*query, down, LayerMatrix("kv_b_proj", expanded, kv_rank, "attention"), out)


def _mlp(
    shape: ModelShape,
    kind: MatrixKind,
    inner: int,
    count: int = 1,
    active: int = 1,
    width: int | None = None,
) -> tuple[LayerMatrix, ...]:
    if not inner:
        return ()
    bias, width = int(shape.ffn_bias), width or shape.width
    names = ("gate_proj", "up_proj") if shape.gated else ("up_proj",)
    first = [LayerMatrix(n, inner, width, kind, count, active, bias) for n in names]
    return (*first, LayerMatrix("down_proj", width, inner, kind, count, active, bias))


def prediction_matrix(shape: ModelShape) -> LayerMatrix:
    """What joins hidden state and next embedding before a multi-token-prediction layer.

    Source: DeepSeek-V3 (arXiv 2412.19437), equation 21.
    """
    return LayerMatrix("eh_proj", shape.width, 2 * shape.width, "ffn")


def layer_norm_parameters(shape: ModelShape, kind: str) -> int:
    """Of one layer: its norms over the width and those of queries, keys and latents; of a scan
    all that is no matrix."""
    a, parts = shape.attention, layer_parts(shape, kind)
    norms = shape.norms_per_layer * norm_parameters(shape)
    if a.mixer is not None and "scan" in parts:
        norms += a.mixer.other_parameters
    if "attention" not in parts:
        return norms
    if a.qk_norm == "head":
        norms += 2 * a.head_dim
    elif a.qk_norm == "width":
        norms += (a.heads + a.kv_heads) * a.head_dim
    if a.latent is not None:
        norms += (a.latent.query_rank or 0) + a.latent.kv_rank
    return norms


def norm_parameters(shape: ModelShape) -> int:
    """Of one norm over the width."""
    return shape.width * (2 if shape.norm == "layer" else 1)
