"""The recipe: what a person writes. Few keys, all optional but `name` and `data`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from whorl.core.encodings import check_encoding
from whorl.core.plugins import check_part
from whorl.core.units import parse_count, parse_duration_s, parse_share
from whorl.spec.train_keys import TrainSpec

__all__ = [
    "LATER",
    "Budget",
    "CompressSpec",
    "DataSpec",
    "EvaluateSpec",
    "HardwareSpec",
    "ModelSpec",
    "PrepareSpec",
    "Recipe",
    "ServeSpec",
    "TrainSpec",
]

Auto = Literal["auto"]


def _unless_auto(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: value if value in ("auto", None) else parse(value))


_AUTO_IS_NONE = BeforeValidator(lambda value: None if value == "auto" else value)
Seconds = Annotated[float, BeforeValidator(parse_duration_s)]
Share = Annotated[float, BeforeValidator(parse_share)]
Count = Annotated[int, BeforeValidator(parse_count)]
AutoCount = Annotated[int | Auto, _unless_auto(parse_count)]

# Keys of the design whose work comes later: known, and refused, never ignored.
LATER = {
    "train.lora": "low-rank fine-tuning",
    "train.objective=sft": "supervised fine-tuning",
    "train.objective=dpo": "preference training",
    "train.objective=distill": "distillation",
    "train.layout": "distributed layouts",
    "model.base": "opening existing models",
    "serve.ttft_p95": "serving targets",
    "serve.tokens_per_s_per_user": "serving targets",
    "serve.users": "serving targets",
    "serve.engine=vllm": "the vLLM engine",
    "improve": "the gate and the improvement loop",
}


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(Spec):
    """What training may take; at most one of these."""

    train_time: Seconds | None = Field(None, description='wall time of training, such as "4min"')
    tokens: Count | None = Field(None, description='tokens to train on, such as "2M"')
    flops: float | None = Field(None, gt=0, description="floating-point operations of training")
    device_hours: float | None = Field(
        None, gt=0, lt=1e15, description="hours of one device; this machine is one device"
    )
    usd: float | None = Field(
        None, gt=0, lt=1e15, description="US dollars, at the price of a device-hour"
    )


class HardwareSpec(Spec):
    device: Annotated[str | None, _AUTO_IS_NONE] = Field(
        None, min_length=1, description="such as h100-sxm; left out: this machine, measured"
    )
    count: Count = Field(1, description="devices")
    usd_per_device_hour: float | None = Field(
        None, ge=0, lt=1e6, description="price; of other devices the catalogue's by default"
    )

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.device is None


class DataSpec(Spec):
    source: str = Field(
        min_length=1,
        description="a file, folder, glob, pypi: npm: debian: hf: release, or a field's own name",
    )
    field: str = Field("text", description="text, code, digits, or a field from an entry point")
    share: Share | None = Field(
        None, description="of the trained tokens; without shares: as much as there is"
    )
    text_key: str | None = Field(None, description="key of the text in rows, as in options")
    encoding: Annotated[str, AfterValidator(check_encoding)] | None = Field(
        None, description="of files that are not UTF-8, such as latin-1; else by byte order marks"
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="of the field; text and code: text_key, the key of the text in rows",
    )


class PrepareSpec(Spec):
    vocab_size: AutoCount = Field("auto", description="ids of the tokenizer, reserve included")
    heldout_share: Share = Field(0.05, description="share of documents held out for evaluation")
    near_duplicate_jaccard: Share = Field(0.8, description="similarity that drops a near-copy")
    max_repetition_ratio: float = Field(6.0, gt=1, description="zlib ratio above which text goes")
    max_repeated_windows: Share = Field(
        0.4, description="share of repeated windows that drops text"
    )


def _known_block(name: str) -> str:
    if name:
        check_part("whorl.blocks", name, ())
    return name


class ModelSpec(Spec):
    """Any size that is given is kept, the others are chosen."""

    family: Literal["qwen3", "llama"] = Field("qwen3", description="Hugging Face architecture")
    layers: int | Auto = Field("auto", description="transformer blocks")
    width: int | Auto = Field("auto", description="hidden size")
    heads: int | Auto = Field("auto", description="query heads")
    kv_heads: int | Auto = Field("auto", description="key and value heads; divides heads")
    head_dim: int | Auto = Field("auto", description="elements of one head")
    ffn_width: int | Auto = Field("auto", description="inner size of the feed-forward block")
    block: Annotated[str, AfterValidator(_known_block)] = Field(
        "", description="of a package, in place of ours; planned as if it were ours"
    )


class CompressSpec(Spec):
    formats: tuple[Literal["int8", "int4"], ...] = Field(
        ("int8",), description="weights of the variants to make; []: the model is served as it is"
    )
    max_bpb_increase: Share = Field(0.01, description="loss of quality above which one is refused")


class EvaluateSpec(Spec):
    max_bytes: Count = Field(600_000, description="held-out bytes scored, in whole documents")
    baselines: bool = Field(True, description="score other methods on the same documents")


class ServeSpec(Spec):
    engine: str = Field("auto", description="openvino, torch, or one from an entry point")
    host: str = Field("127.0.0.1", description="address to bind; loopback unless you say otherwise")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: any free one")
    max_running: int = Field(16, ge=1, description="requests generated together")
    max_waiting: int = Field(64, ge=0, description="requests queued before a 429")
    max_tokens: int = Field(512, ge=1, description="most tokens one request may ask for")


class Recipe(Spec):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="names the model")
    data: tuple[DataSpec, ...] = Field(
        min_length=1, description="sources, of one or several fields"
    )
    budget: Budget = Field(default_factory=Budget, description="what training may take")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    hardware: Annotated[HardwareSpec, BeforeValidator(lambda v: {} if v == "auto" else v)] = Field(
        default_factory=HardwareSpec, description="auto: this machine"
    )
    prepare: PrepareSpec = Field(default_factory=PrepareSpec, description="cleaning and tokens")
    model: ModelSpec = Field(default_factory=ModelSpec, description="sizes; auto: chosen by plan")
    train: TrainSpec = Field(default_factory=TrainSpec, description="how it is trained")
    compress: Annotated[
        CompressSpec, BeforeValidator(lambda v: {"formats": ()} if v in (None, "none") else v)
    ] = Field(default_factory=CompressSpec, description="smaller variants; none: no such")
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec, description="how it is scored")
    serve: ServeSpec = Field(default_factory=ServeSpec, description="how it is served")

    @property
    def train_time_s(self) -> float | None:
        """The budget on this machine, in seconds of training; None if it is no time or money."""
        budget, price = self.budget, self.hardware.usd_per_device_hour
        hours = budget.usd / price if budget.usd and price else budget.device_hours
        return budget.train_time if hours is None else 3600 * hours
