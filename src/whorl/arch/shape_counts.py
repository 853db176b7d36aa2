"""Parameters, FLOPs and bytes of any decoder, summed from one list of matrices per layer."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.arch.layers import (
    LayerMatrix,
    layer_kinds,
    layer_matrices,
    layer_norm_parameters,
    layers_with,
    norm_parameters,
    prediction_matrix,
)
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

__all__ = [
    "BYTES_PER_ELEMENT",
    "MATRIX_MOMENTS",
    "ShapeCounts",
    "ShapeFlops",
    "TrainingBytes",
    "attention_pairs",
    "cache_bytes_per_token",
    "count_shape",
    "flops_per_token",
    "kv_bytes_per_token",
    "training_bytes",
]

BYTES_PER_ELEMENT = {"fp32": 4, "bf16": 2, "int8": 1}
INT8_GROUP = 32  # tokens of a channel that share a scale, in a cache
BACKWARD_PER_FORWARD = 2  # gradients of the input and of the weights, one product each
OTHER_MOMENTS = 2  # of what is not a matrix of a block: AdamW's
MATRIX_MOMENTS = {"adamw": 2, "muon": 1, "sgd": 0}


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


def _layer_list(shape: ModelShape) -> list[tuple[int, tuple[LayerMatrix, ...]]]:
    """(layers of this kind, matrices of one)."""
    kinds = layer_kinds(shape).items()
    return [(number, layer_matrices(shape, kind)) for kind, number in kinds]


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
    norms = {kind: layer_norm_parameters(shape, kind) for kind in layer_kinds(shape)}
    of_layers = sum(number * norms[kind] for kind, number in layer_kinds(shape).items())
    norms_of_layer = list(norms.values())[-1]
    last = sum(matrix.parameters for matrix in layers[-1][1])
    prediction = prediction_matrix(shape).parameters + 3 * norm_parameters(shape)
    return ShapeCounts(
        embedding=table,
        head=(0 if shape.tied_embeddings else table) + shape.vocab_size * int(shape.head_bias),
        positions=shape.learned_positions * shape.width,
        attention=parts["attention"] + layers_with(shape, "attention") * _sinks(shape),
        feed_forward=parts["ffn"],
        experts=parts["expert"],
        active_experts=active_experts,
        shared_experts=parts["shared"],
        routers=parts["router"],
        norms=of_layers + (1 + int(shape.embedding_norm)) * norm_parameters(shape),
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
    seeing = layers_with(shape, "attention")
    pairs = (seeing - a.window_layers + extra) * full + a.window_layers * windowed
    scan = 0.0
    if a.mixer is not None:  # each channel's state is updated and read: arXiv 2312.00752
        scan = a.mixer.scan_flops * a.mixer.inner * a.mixer.state * layers_with(shape, "scan")
    return ShapeFlops(
        blocks=float(blocks),
        head=2.0 * (1 + extra) * shape.vocab_size * shape.width,
        attention=2.0 * a.heads * (a.head_dim + a.values) * pairs / seq_len + scan,
        router=float(router),
    )


def kv_bytes_per_token(
    shape: ModelShape,
    bytes_per_element: float = 2,
    seq_len: int | None = None,
    state_bytes: float | None = None,
) -> float:
    """Bytes of cache per token of context, all layers.

    Latent attention keeps the latent and the rotated key of all heads (DeepSeek-V2). With
    seq_len, the mean over a context of seq_len tokens of which windowed layers keep only the
    last `window`; without it, what one more token adds before any window is full. Of a scan the
    state and the convolution's window, as large for one token as for many, in elements of
    state_bytes; None: of as many as keys.
    """
    a, state = shape.attention, 0.0
    if a.mixer is not None and seq_len:
        each = a.mixer.inner * a.mixer.state + a.mixer.kept
        state = layers_with(shape, "scan") * each / seq_len
    if a.latent is None:
        elements = a.kv_heads * (a.head_dim + a.values)
    else:
        elements = a.latent.kv_rank + a.latent.rope_dim
    layers: float = layers_with(shape, "attention")
    if seq_len is not None and a.window is not None:
        _check_seq_len(seq_len)
        layers -= a.window_layers * (1 - min(seq_len, a.window) / seq_len)
    each_bytes = bytes_per_element if state_bytes is None else state_bytes
    return layers * elements * bytes_per_element + state * each_bytes


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
