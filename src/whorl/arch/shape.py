"""The shape of a decoder-only transformer: everything that decides what it costs and computes.

Wider than what whorl can compute itself (`arch.computable` says what that is): GPT, Llama, Qwen,
Gemma, DeepSeek and their mixtures of experts can all be planned for. Sizes in elements.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from whorl.core.errors import SpecError
from whorl.core.validation import first_problem

__all__ = [
    "AttentionShape",
    "Beside",
    "Experts",
    "Latent",
    "Mixer",
    "ModelShape",
    "Rope",
    "shape_from_json",
    "shape_values",
]

Norm = Literal["rms", "layer", "layer_no_bias"]


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): low-rank queries and keys."""

    query_rank: int | None  # None: queries come straight from the hidden state
    kv_rank: int
    rope_dim: int  # of head_dim, the part that is rotated; shared by all heads among the keys


@dataclass(frozen=True)
class Rope:
    """Rotary positions (arXiv 2104.09864): pair i turns by position * theta^(-2i / head_dim).

    `scaling` stretches them to longer contexts: "linear" (2306.15595), "llama3" (2407.21783),
    "yarn" (2309.00071); "default" not at all. Other names can be read, not computed.
    """

    theta: float = 10_000.0
    scaling: str = "default"
    factor: float = 1.0  # how much longer
    original_seq_len: int | None = None  # tokens of a sequence before stretching
    low_freq_factor: float = 1.0  # llama3: pairs that turn less often in original_seq_len are
    high_freq_factor: float = 4.0  # stretched, those that turn more often are not
    beta_slow: float = 1.0  # yarn: the same in turns
    beta_fast: float = 32.0
    truncate: bool = True  # yarn: the borders are whole pairs
    attention_factor: float = 1.0  # both cos and sin are multiplied by it
    rotated_share: float = 1.0  # of head_dim


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens without attention: a scan whose state does not grow (Mamba, DeltaNet)."""

    inner: int
    state: int  # elements per inner channel
    matrices: tuple[tuple[str, int, int], ...]  # (name, rows, columns) of each product
    other_parameters: int  # of one layer: convolution, biases, norms, what the scan learns
    kept: int = 0  # elements of the convolution's window, beside the state
    # of one element of the state, forward, for each token; Mamba: decayed, added to and read
    scan_flops: float = 6.0
    state_bytes: float = 2.0  # of an element of the state, in a server's cache


@dataclass(frozen=True)
class Beside:
    """A part that is not one of the layers: an image encoder, a decoder's other half, a head."""

    name: str
    parameters: int
    flops_per_token: float = 0.0  # forward, for each token of the layers
    kept_per_token: int = 0  # elements kept for its backward pass
    flops_per_patch: float = 0.0  # forward, of images
    kept_per_patch: int = 0
    patch_pixels: int = 0
    tokens_per_patch: float = 0.0  # of the sequence
    most_patches: int = 0  # of one image; 0: as many as it has


@dataclass(frozen=True)
class AttentionShape:
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys; with latent attention the rotated part included
    value_dim: int | None = None  # of values, when it differs
    latent: Latent | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    sinks: bool = False  # one learned logit per head (gpt-oss)
    window: int | None = None  # tokens a sliding-window layer looks back
    windowed: tuple[int, ...] = ()  # layers that use the window; the others see everything
    query_scale: float | None = None  # of the scores; None: 1 / sqrt(head_dim)
    mixer: Mixer | None = None  # in its place, or in some layers (ModelShape.parts)
    softcap: float | None = None  # scores become softcap * tanh(score / softcap) (Gemma 2)
    output_gate: bool = False  # queries come with a gate of the heads' outputs (Qwen3-Next)

    @property
    def values(self) -> int:
        """Elements of one head's value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def window_layers(self) -> int:
        return len(self.windowed)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward block."""

    count: int
    active: int  # routed experts per token
    width: int  # inner size of one routed expert
    shared: int = 0  # experts every token passes through
    shared_width: int | None = None  # inner size of one shared expert; None: as the routed
    shared_gate: bool = False  # a learned gate on the shared expert's output (Qwen2-MoE)
    dense: tuple[int, ...] = ()  # layers with the dense feed-forward block instead
    normalise: bool = True  # the chosen experts' shares are made to sum to one
    router_bias: bool = False
    score_correction: bool = False  # DeepSeek-V3's bias per expert
    latent: int | None = None  # width that routed experts read and write; None: the model's

    @property
    def dense_layers(self) -> int:
        return len(self.dense)


@dataclass(frozen=True)
class ModelShape:
    """Raises SpecError if the sizes cannot belong to one model. Equal whatever their names are.

    parts: of each layer of a hybrid what it is made of, such as "attention+dense", "scan+expert" or
    "scan" alone; (): every layer has attention (or its mixer), then feeds forward.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = field(compare=False)
    layers: int
    width: int
    ffn_width: int  # of the dense feed-forward block
    vocab_size: int
    attention: AttentionShape
    experts: Experts | None = None
    family: str = ""  # Hugging Face's model_type; "": none of theirs
    block: str = ""  # layers are those of a package (entry point group whorl.blocks); "": ours
    gated: bool = True  # gate, up and down (SwiGLU); False: up and down
    activation: str = "silu"  # of the gate, or of up
    ffn_bias: bool = False
    norm: Norm = "rms"
    norm_eps: float = 1e-6
    norm_offset: bool = False  # norms multiply by 1 + weight (Gemma)
    norms_per_layer: int = 2  # 4: one more behind each block's output (Gemma)
    embedding_norm: bool = False  # one more after the embedding (BLOOM)
    embedding_scale: float = 1.0
    rope: Rope = Rope()
    windowed_rope: Rope | None = None  # of layers with a window; None: as the others
    tied_embeddings: bool = False
    head_bias: bool = False
    logit_softcap: float | None = None  # logits become softcap * tanh(logit / softcap)
    learned_positions: int = 0  # rows of a learned position table
    max_seq_len: int = 0  # 0: not stated
    bidirectional: bool = False  # every token sees all (BERT)
    beside: tuple[Beside, ...] = ()
    predicted_tokens: int = 0  # extra multi-token-prediction layers (DeepSeek-V3)
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_counts(self, f"model {self.name}")
        attention = self.attention
        if attention.heads % attention.kv_heads:
            raise SpecError(
                f"model {self.name}: attention heads {attention.heads} are not divisible by "
                f"kv_heads {attention.kv_heads}",
                do=f"set kv_heads to a divisor of {attention.heads}",
            )
        _check_layers(attention.windowed, self, "sliding-window")
        if self.experts is not None:
            _check_layers(self.experts.dense, self, "dense")
        if self.parts and len(self.parts) != self.layers:
            found = f"{len(self.parts)} for {self.layers} layers"
            raise SpecError(f"model {self.name}: parts of its layers", found=found)
        words = {word for kind in self.parts for word in kind.split("+")}
        if unknown := sorted(words - PARTS):
            expected = ", ".join(sorted(PARTS))
            raise SpecError(f"model {self.name}: parts", found=unknown, expected=expected)
        if self.experts is not None and self.experts.active > self.experts.count:
            raise SpecError(
                f"model {self.name}: more active experts than experts",
                found=self.experts.active,
                expected=f"at most {self.experts.count}",
            )

    @property
    def expert_layers(self) -> int:
        """Layers whose feed-forward block is a mixture of experts."""
        return 0 if self.experts is None else self.layers - self.experts.dense_layers

    @property
    def routed_width(self) -> int:
        """Elements of a token on its way to an expert."""
        return (None if self.experts is None else self.experts.latent) or self.width


LATER: dict[str, dict[str, Any]] = {  # fields that came later -> what no model of whorl changes
    "": {"bidirectional": False, "beside": (), "parts": ()},
    "attention": {"mixer": None, "output_gate": False},
    "experts": {"latent": None},
}
PARTS = frozenset({"attention", "scan", "dense", "expert"})
MAY_BE_ZERO = frozenset(
    {"shared", "learned_positions", "max_seq_len", "kept"}
    | {"predicted_tokens", "norms_per_layer", "ffn_width"}
)


def _check_layers(layers: tuple[int, ...], shape: ModelShape, kind: str) -> None:
    if sorted({*layers}) != list(layers) or not {*layers} <= {*range(shape.layers)}:
        raise SpecError(
            f"model {shape.name}: its {kind} layers",
            found=layers,
            expected=f"rising numbers from 0 to {shape.layers - 1}",
        )


def _check_counts(value: Any, where: str) -> None:
    """Counts must be whole and at least 1, or 0 where nothing is meant; other numbers above 0."""
    for item in fields(value):
        number = getattr(value, item.name)
        if is_dataclass(number):
            _check_counts(number, f"{where}: {item.name}")
        elif isinstance(number, bool) or not isinstance(number, int | float):
            continue
        elif "float" in str(item.type):
            if not 0 < number < math.inf:
                raise SpecError(f"{where}: {item.name}", found=number, expected="above 0")
        elif number != int(number) or number < (0 if item.name in MAY_BE_ZERO else 1):
            raise SpecError(
                f"{where}: {item.name}",
                found=number,
                expected="a whole number of at least " + ("0" if item.name in MAY_BE_ZERO else "1"),
            )


def shape_values(shape: ModelShape) -> dict[str, Any]:
    """As `dataclasses.asdict`, without what no model of whorl has: keys of records stay as they
    were before there were such fields."""
    values = asdict(shape)
    for inside, plain in LATER.items():
        of = values[inside] if inside else values
        for key, usual in plain.items():
            if of is not None and of[key] == usual:
                del of[key]
    return values


def shape_from_json(value: object) -> ModelShape:
    """What `dataclasses.asdict` made of a shape. Raises SpecError on anything else."""
    try:
        return TypeAdapter(ModelShape).validate_python(value)
    except ValidationError as error:
        raise SpecError("this is not the shape of a model", found=first_problem(error)) from error
