"""Parameters, FLOPs and bytes of any decoder, summed from one list of matrices per layer.

`layer_matrices` is the single source: the counts add it up, a time model walks it and tensor
parallelism divides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

__all__ = [
    "BYTES_PER_ELEMENT",
    "MATRIX_MOMENTS",
    "LayerKind",
    "LayerMatrix",
    "MatrixKind",
    "ShapeCounts",
    "ShapeFlops",
    "TrainingBytes",
    "attention_pairs",
    "cache_bytes_per_token",
    "count_shape",
    "flops_per_token",
    "kv_bytes_per_token",
    "layer_matrices",
    "layer_norm_parameters",
    "prediction_matrix",
    "training_bytes",
]

LayerKind = Literal["dense", "expert"]
MatrixKind = Literal["attention", "ffn", "router", "expert", "shared"]
BYTES_PER_ELEMENT = {"fp32": 4, "bf16": 2, "int8": 1}
INT8_GROUP = 32  # tokens of a channel that share a scale, in a cache
BACKWARD_PER_FORWARD = 2  # gradients of the input and of the weights, one product each
OTHER_MOMENTS = 2  # of what is not a matrix of a block: AdamW's
MATRIX_MOMENTS = {"adamw": 2, "muon": 1, "sgd": 0}


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


@dataclass(frozen=True)
class ShapeCounts:
    """Numbers of parameters, all layers, biases included."""

    embedding: int
    head: int  # without the matrix when it is the embedding's
    positions: int  # the learned position table
    attention: int  # projections and sinks
    feed_forward: int  # dense blocks
    experts: int  # every routed expert
    active_experts: int  # of these, what one token passes through
    shared_experts: int
    routers: int
    norms: int  # those of queries, keys and latents too
    other: int  # multi-token-prediction layers, without the tables they share with the model
    beside: int  # parts that are none of the layers
    hidden_matrices: int  # elements of the blocks' matrices without biases: what Muon updates
    matmul_active: int  # elements of the matrices one token meets, head in, input embedding out

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.positions + self.non_embedding

    @property
    def non_embedding(self) -> int:
        """Everything but the embedding, the head and the position table."""
        blocks = self.attention + self.feed_forward + self.experts + self.shared_experts
        return blocks + self.routers + self.norms + self.other + self.beside

    @property
    def active(self) -> int:
        """Per generated token: the active of the routed experts, no multi-token prediction.

        The input embedding is in, as for Mixtral, Qwen and DeepSeek; OpenAI's figures for
        gpt-oss leave it out.
        """
        return self.total - self.other - self.experts + self.active_experts


@dataclass(frozen=True)
class ShapeFlops:
    """Forward FLOPs of one token; a multiply-add is two. Norms, softmax, rotations: none."""

    blocks: float  # the blocks' matrices, the active experts' among them
    head: float
    attention: float  # scores and weighted sums
    router: float

    @property
    def forward(self) -> float:
        return self.blocks + self.head + self.attention + self.router

    @property
    def backward(self) -> float:
        return BACKWARD_PER_FORWARD * self.forward

    @property
    def training(self) -> float:
        """Forward and backward, without any recomputation."""
        return self.forward + self.backward


@dataclass(frozen=True)
class TrainingBytes:
    weights: int
    gradients: int
    optimizer_state: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_state


def layer_matrices(shape: ModelShape, layer_kind: LayerKind) -> tuple[LayerMatrix, ...]:
    """Every matrix of one layer in the order of the forward pass.

    A dense layer of a mixture of experts is one of its first `dense_layers`. Raises SpecError
    if an expert layer is asked of a model without experts.
    """
    if layer_kind == "dense":
        return _attention(shape) + _mlp(shape, "ffn", shape.ffn_width)
    experts = shape.experts
    if experts is None:
        raise SpecError(f"model {shape.name} has no experts", found="expert", expected="dense")
    biases = int(experts.router_bias) + int(experts.score_correction)
    router = LayerMatrix("router", experts.count, shape.width, "router", biases=biases)
    routed = _mlp(shape, "expert", experts.width, experts.count, experts.active)
    shared: tuple[LayerMatrix, ...] = ()
    if experts.shared:  # one block as wide as all of them, as the implementations have it
        inner = experts.shared * (experts.shared_width or experts.width)
        shared = _mlp(shape, "shared", inner)
        if experts.shared_gate:
            shared += (LayerMatrix("shared_gate", 1, shape.width, "shared"),)
    return (*_attention(shape), router, *routed, *shared)


def _attention(shape: ModelShape) -> tuple[LayerMatrix, ...]:
    a, width = shape.attention, shape.width
    if a.mixer is not None:
        return tuple(LayerMatrix(*matrix, "attention") for matrix in a.mixer.matrices)
    bias = int(a.qkv_bias)
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    out = LayerMatrix("o_proj", width, a.heads * a.values, "attention", biases=int(a.output_bias))
    if a.latent is None:
        inner = [("q_proj", queries), ("k_proj", keys), ("v_proj", a.kv_heads * a.values)]
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
    shape: ModelShape, kind: MatrixKind, inner: int, count: int = 1, active: int = 1
) -> tuple[LayerMatrix, ...]:
    if not inner:
        return ()
    bias = int(shape.ffn_bias)
    names = ("gate_proj", "up_proj") if shape.gated else ("up_proj",)
    first = [LayerMatrix(n, inner, shape.width, kind, count, active, bias) for n in names]
    return (*first, LayerMatrix("down_proj", shape.width, inner, kind, count, active, bias))


def prediction_matrix(shape: ModelShape) -> LayerMatrix:
    """What joins hidden state and next embedding before a multi-token-prediction layer.

    Source: DeepSeek-V3 (arXiv 2412.19437), equation 21.
    """
    return LayerMatrix("eh_proj", shape.width, 2 * shape.width, "ffn")


def layer_norm_parameters(shape: ModelShape) -> int:
    """Of one layer: its norms over the width and those of queries, keys and latents."""
    a = shape.attention
    norms = shape.norms_per_layer * _norm(shape)
    if a.mixer is not None:
        return norms + a.mixer.other_parameters
    if a.qk_norm == "head":
        norms += 2 * a.head_dim
    elif a.qk_norm == "width":
        norms += (a.heads + a.kv_heads) * a.head_dim
    if a.latent is not None:
        norms += (a.latent.query_rank or 0) + a.latent.kv_rank
    return norms


def _norm(shape: ModelShape) -> int:
    return shape.width * (2 if shape.norm == "layer" else 1)


def _layer_list(shape: ModelShape) -> list[tuple[int, tuple[LayerMatrix, ...]]]:
    """(layers of this kind, matrices of one)."""
    dense = shape.layers - shape.expert_layers
    kinds: list[tuple[int, LayerKind]] = [(dense, "dense"), (shape.expert_layers, "expert")]
    return [(number, layer_matrices(shape, kind)) for number, kind in kinds if number]


def _sinks(shape: ModelShape) -> int:
    return shape.attention.heads if shape.attention.sinks else 0


def count_shape(shape: ModelShape) -> ShapeCounts:
    """Parameters by part, equal to those of the HF implementation of the same shape."""
    parts: dict[str, int] = dict.fromkeys(("attention", "ffn", "expert", "shared", "router"), 0)
    hidden = active_experts = matmul_active = 0
    layers = _layer_list(shape)
    for number, matrices in layers:
        for matrix in matrices:
            parts[matrix.kind] += number * matrix.parameters
            hidden += number * matrix.count * matrix.elements
            matmul_active += number * matrix.active * matrix.elements
            if matrix.kind == "expert":
                active_experts += number * matrix.active_parameters
    table = shape.vocab_size * shape.width
    norms_of_layer = layer_norm_parameters(shape)
    last = sum(matrix.parameters for matrix in layers[-1][1])
    prediction = prediction_matrix(shape).parameters + 3 * _norm(shape)
    return ShapeCounts(
        embedding=table,
        head=(0 if shape.tied_embeddings else table) + shape.vocab_size * int(shape.head_bias),
        positions=shape.learned_positions * shape.width,
        attention=parts["attention"] + shape.layers * _sinks(shape),
        feed_forward=parts["ffn"],
        experts=parts["expert"],
        active_experts=active_experts,
        shared_experts=parts["shared"],
        routers=parts["router"],
        norms=shape.layers * norms_of_layer + (1 + int(shape.embedding_norm)) * _norm(shape),
        other=shape.predicted_tokens * (prediction + last + norms_of_layer + _sinks(shape)),
        beside=sum(part.parameters for part in shape.beside),
        hidden_matrices=hidden,
        matmul_active=matmul_active + table,
    )


def attention_pairs(num_tokens: int, window: int | None = None) -> int:
    """Pairs (token, token it may look at) in one causal sequence: 1 + 2 + … + n.

    A window counts the token itself, as HF's sliding_window does.
    """
    n = num_tokens if window is None else min(num_tokens, window)
    return n * (n + 1) // 2 + (num_tokens - n) * n


def flops_per_token(shape: ModelShape, seq_len: int, causal: bool = True) -> ShapeFlops:
    """FLOPs of one token, the mean over one sequence of seq_len tokens.

    causal=False counts every pair of the sequence, as kernels without skipping do and as many
    published rates assume. Latent attention is counted expanded to heads, as in training and
    prefill. Multi-token-prediction layers are in: each adds a layer, its join and the head.
    Raises SpecError if seq_len < 1.
    """
    _check_seq_len(seq_len)
    a = shape.attention
    layers = _layer_list(shape)
    extra = shape.predicted_tokens
    layers = [*layers, (extra, (*layers[-1][1], prediction_matrix(shape)))]
    blocks, router = 0.0, 0
    for number, matrices in layers:
        for matrix in matrices:
            if matrix.kind == "router":
                router += number * matrix.forward_flops
            else:
                blocks += number * matrix.forward_flops
    blocks += sum(part.flops_per_token for part in shape.beside)
    if causal and not shape.bidirectional:
        full, windowed = attention_pairs(seq_len), attention_pairs(seq_len, a.window)
    else:
        full, windowed = seq_len**2, seq_len * min(seq_len, a.window or seq_len)
    if a.mixer is not None:  # each channel's state is updated and read: arXiv 2312.00752
        scan = 6.0 * a.mixer.inner * a.mixer.state * shape.layers
        return ShapeFlops(float(blocks), 2.0 * shape.vocab_size * shape.width, scan, float(router))
    pairs = (shape.layers - a.window_layers + extra) * full + a.window_layers * windowed
    return ShapeFlops(
        blocks=float(blocks),
        head=2.0 * (1 + extra) * shape.vocab_size * shape.width,
        attention=2.0 * a.heads * (a.head_dim + a.values) * pairs / seq_len,
        router=float(router),
    )


def kv_bytes_per_token(
    shape: ModelShape, bytes_per_element: float = 2, seq_len: int | None = None
) -> float:
    """Bytes of cache per token of context, all layers.

    Latent attention keeps the latent and the rotated key of all heads (DeepSeek-V2). With
    seq_len, the mean over a context of seq_len tokens of which windowed layers keep only the
    last `window`; without it, what one more token adds before any window is full.
    """
    a = shape.attention
    if a.mixer is not None:  # a state, as large for one token as for many
        whole = shape.layers * a.mixer.inner * a.mixer.state * bytes_per_element
        return whole / seq_len if seq_len else 0.0
    if a.latent is None:
        elements = a.kv_heads * (a.head_dim + a.values)
    else:
        elements = a.latent.kv_rank + a.latent.rope_dim
    layers: float = shape.layers
    if seq_len is not None and a.window is not None:
        _check_seq_len(seq_len)
        layers -= a.window_layers * (1 - min(seq_len, a.window) / seq_len)
    return layers * elements * bytes_per_element


def cache_bytes_per_token(shape: ModelShape, cache: str) -> float:
    """Of a sequence that is served, at most; cache: numbers of keys and values, "f32" or "int8".

    int8 numbers have a scale and a zero point, as floats, for each token's head, or for 32 tokens'
    channel, as OpenVINO GenAI keeps them. Raises SpecError for other numbers.
    """
    each = {"f32": 4.0, "int8": 1.0 + 8.0 / min(shape.attention.head_dim, INT8_GROUP)}
    if cache not in each:
        raise SpecError("numbers of a cache", found=cache, expected=", ".join(each))
    return kv_bytes_per_token(shape, each[cache])


def training_bytes(
    shape: ModelShape,
    optimizer: str = "adamw",
    weight_bytes: int = 4,
    gradient_bytes: int = 4,
    moment_bytes: int = 4,
    matrix_moments: int | None = None,
) -> TrainingBytes:
    """Bytes of the whole model's weights, gradients and moments, before any sharding.

    Muon keeps one moment per element of the blocks' matrices and leaves the rest (embedding,
    head, norms, biases) to AdamW, which keeps two. matrix_moments: of another optimiser, for each
    element of the blocks' matrices.
    """
    counts = count_shape(shape)
    total, hidden = counts.total, counts.hidden_matrices
    others = 0 if optimizer == "sgd" and matrix_moments is None else OTHER_MOMENTS
    if matrix_moments is None:
        matrix_moments = MATRIX_MOMENTS.get(optimizer, 2)
    moments = matrix_moments * hidden + others * (total - hidden)
    return TrainingBytes(weight_bytes * total, gradient_bytes * total, moment_bytes * moments)


def _check_seq_len(seq_len: int) -> None:
    if seq_len < 1:
        raise SpecError("sequence length", found=seq_len, expected="at least 1")
