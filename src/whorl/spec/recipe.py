"""The recipe: what a person writes. Few keys, all optional but `name` and `data`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from whorl.core.encodings import check_encoding
from whorl.core.errors import SpecError
from whorl.core.home import OWN_FOLDERS
from whorl.core.plugins import check_part
from whorl.spec.quantities import Duration, Length, Number, Share, Whole
from whorl.spec.resolved import MAX_DOCUMENTS, MaxRunning, MaxTokens, MaxWaiting, NumReplicas, Port
from whorl.spec.saying import NONE, Spec
from whorl.spec.train_keys import TrainSpec

__all__ = [
    "DEVICES",
    "LATER",
    "NAME_RULE",
    "PRICE",
    "TOKENS",
    "VOCAB_SIZE",
    "Budget",
    "CompressSpec",
    "DataSpec",
    "EvaluateSpec",
    "HardwareSpec",
    "ModelSpec",
    "PrepareSpec",
    "PruneSpec",
    "Recipe",
    "ServeSpec",
    "TrainSpec",
    "check_name",
]

Auto = Literal["auto"]
HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
ORIGIN = re.compile(r"https?://[A-Za-z0-9_.\[\]:-]{1,260}")
MONEY = Number(1e-6, 1e15)  # US dollars, or hours
PRICE = Number(0, 1e6)  # US dollars of a device-hour
DEVICES = Whole(1, 10**7)
VOCAB_SIZE = Length(1, 2**24)
TOKENS = Whole()
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAME_RULE = "lower-case letters, digits, dots and dashes, at most 64"


def check_name(name: str) -> str:
    """A model's name, which is used in file names. Raises SpecError."""
    if name in OWN_FOLDERS:
        raise SpecError("whorl keeps its own files under that name", found=name)
    if not NAME.fullmatch(name):
        raise SpecError("not a name for files", found=repr(name), expected=NAME_RULE)
    return name


def _without_nul(text: str) -> str:
    if not text or "\0" in text:
        raise SpecError("no text" if not text else "a NUL", expected="text without NUL")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]

# Keys of the design whose work comes later: known, and refused, never ignored.
LATER = {
    "train.layout": "distributed layouts",
    "improve": "the gate",
}


class Budget(Spec):
    """What training may take; at most one of these."""

    train_time: Annotated[float, Duration()] | None = Field(
        None, description='wall time of training, such as "4min"'
    )
    tokens: Annotated[int, TOKENS] | None = Field(
        None, description='tokens to train on, such as "2M"'
    )
    flops: Annotated[float, Number(1, 1e32)] | None = Field(
        None, description="floating-point operations of training"
    )
    device_hours: Annotated[float, MONEY] | None = Field(
        None, description="hours of one device; this machine is one device"
    )
    usd: Annotated[float, MONEY] | None = Field(
        None, description="US dollars, at the price of a device-hour"
    )


class HardwareSpec(Spec):
    device: Text | None = Field(
        None, description="such as h100-sxm; left out: this machine, measured"
    )
    count: Annotated[int, DEVICES] = Field(1, description="devices")
    usd_per_device_hour: Annotated[float, PRICE] | None = Field(
        None, description="price; of other devices the catalogue's by default"
    )

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.device is None


class DataSpec(Spec):
    source: Text = Field(
        description="a file, folder, glob, pypi: npm: debian: debian-index: hf: release, or a name "
        "that the field knows",
    )
    field: Text = Field("text", description="text, code, digits, or a field from an entry point")
    share: Annotated[float, Share()] | None = Field(
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
    vocab_size: Annotated[int, VOCAB_SIZE] | Auto = Field(
        "auto", description="ids of the tokenizer, reserve included"
    )
    heldout_share: Annotated[float, Share()] = Field(
        0.05, description="share of documents held out for evaluation"
    )
    near_duplicate_jaccard: Annotated[float, Share()] = Field(
        0.8, description="similarity that drops a near-copy"
    )
    max_repetition_ratio: Annotated[float, Number(1.01, 1e9)] = Field(
        16.0, description="zlib ratio above which text goes"
    )
    max_repeated_windows: Annotated[float, Share()] = Field(
        0.1, description="share of repeated windows above which stale text goes"
    )


def _known_block(name: str) -> str:
    if name:
        check_part("whorl.blocks", name, ())
    return name


Layers = Annotated[int, Whole(1, 10_000)]
Heads = Annotated[int, Whole(1, 10_000)]
Elements = Annotated[int, Length(1, 10**6)]


class PruneSpec(Spec):
    """What of a base does least, on the recipe's training text, goes before training starts."""

    layers: Annotated[float, Share(0, 0.9)] = Field(
        0.0, description="share of its layers that go: those that change their input least"
    )
    ffn: Annotated[float, Share(0, 0.9)] = Field(
        0.0, description="share of every feed-forward block's channels: those that add least"
    )


class ModelSpec(Spec):
    """Any size that is given is kept, the others are chosen; a base has all of its own."""

    base: Text | None = Field(
        None,
        description="the model to start from: what whorl import takes, or a model's name here",
    )
    prune: PruneSpec | None = Field(
        None, description="parts of the base that go; train.objective distil teaches what is left"
    )
    family: Literal["qwen3", "llama"] = Field("qwen3", description="Hugging Face architecture")
    layers: Layers | Auto = Field("auto", description="transformer blocks")
    width: Elements | Auto = Field("auto", description="hidden size")
    heads: Heads | Auto = Field("auto", description="query heads")
    kv_heads: Heads | Auto = Field("auto", description="key and value heads; divides heads")
    head_dim: Elements | Auto = Field("auto", description="elements of one head")
    ffn_width: Elements | Auto = Field("auto", description="inner size of the feed-forward block")
    block: Annotated[str, AfterValidator(_known_block)] = Field(
        "", description="of a package, in place of ours; planned as if it were ours"
    )


class CompressSpec(Spec):
    formats: tuple[Literal["int8", "int4"], ...] | Auto = Field(
        "auto",
        description="weights of the variants to make, each of them required; auto: int8, and where "
        "that loses too much none; []: the model is served as it is",
    )
    max_bpb_increase: Annotated[float, Share()] = Field(
        0.01, description="loss of quality above which one is refused"
    )
    search: Literal["auto", "off", "fast", "full"] = Field(
        "auto", description="ways tried of each format; auto: full where int4 is asked for, or off"
    )
    search_time: Annotated[float, Duration()] = Field(
        900.0, description="after so long no further way is begun"
    )
    cache: Literal["f32", "int8"] = Field(
        "f32",
        description="numbers that served keys and values are kept in; int8 is tried with each "
        "format, and kept where max_bpb_increase allows it",
    )
    speculation: Literal["off", "prompt_lookup"] = Field(
        "off",
        description="prompt_lookup: ids are guessed from the prompt, and checked together, where a "
        "request runs alone; tried with each format, and kept where it is faster here",
    )

    @property
    def tried(self) -> tuple[Literal["int8", "int4"], ...]:
        """The formats that are made and measured."""
        return ("int8",) if self.formats == "auto" else self.formats


class EvaluateSpec(Spec):
    max_bytes: Annotated[int, Whole()] = Field(
        600_000, description="held-out bytes scored, in whole documents"
    )
    max_documents: Annotated[int, Whole()] = Field(
        MAX_DOCUMENTS, description="held-out documents scored, however short"
    )
    baselines: bool = Field(True, description="score other methods on the same documents")
    apart: bool = Field(
        False,
        description="of several fields: train each by itself too, at equal compute, and compare",
    )
    forgetting: Text | None = Field(
        None,
        description="with a base: a file or folder of general text, in place of whorl's own, that "
        "is measured before and after",
    )
    max_forgetting: Annotated[float, Share()] | None = Field(
        None, description="rise of its bits per byte above which a model is not registered"
    )
    contamination: bool = Field(
        True, description="count how much of the scored text is in the training rows"
    )


def _host_name(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        expected = "a name such as models.example, without scheme, port or path"
        raise SpecError("it is no host name", found=text[:80], expected=expected)
    return text.lower().removesuffix(".")


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        expected = "scheme and name, such as https://chat.example, without a path"
        raise SpecError("it is no origin", found=text[:80], expected=expected)
    return text.lower()


class ServeSpec(Spec):
    engine: Text = Field("auto", description="openvino, torch, vllm, or one from an entry point")
    variant: Text | None = Field(
        None,
        description="such as int8 or hf-f32; left out: of those that keep the targets the one that "
        "loses least, without targets the smallest",
    )
    host: Text = Field(
        "127.0.0.1", description="address to bind; loopback unless you say otherwise"
    )
    port: Port = Field(8000, description="port to bind; 0: any free one")
    max_running: MaxRunning = Field(16, description="requests generated together")
    max_waiting: MaxWaiting = Field(64, description="requests queued before a 429")
    max_tokens: MaxTokens = Field(512, description="most tokens one request may ask for")
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = Field(
        (), max_length=64, description="names that a reverse proxy or others call the server by"
    )
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), max_length=64, description="sites whose pages may ask too, by CORS"
    )
    max_wait: Annotated[float, Duration()] = Field(
        30.0, description="a request that would wait longer for its place gets a 429"
    )
    max_time: Annotated[float, Duration()] = Field(
        600.0, description="from a request to the end of its answer"
    )
    log_text: bool = Field(False, description="keep prompts and answers in the log of answers")
    usd_per_million_tokens: Annotated[float, Number(0, 1e9)] = Field(
        0.0, description="what keys with a limit in USD pay"
    )
    replicas: NumReplicas = Field(1, description="engines side by side")
    where: Literal["here", "ray"] = Field(
        "here", description="where they run: this machine, or the nodes of a Ray cluster"
    )
    ttft_p95: Annotated[float, Duration()] | None = Field(
        None, description='target: 95 of 100 first tokens come within it, such as "300ms"'
    )
    tokens_per_s_per_user: Annotated[float, Number(1e-3, 1e6)] | None = Field(
        None, description="target: tokens per second of each answer"
    )
    users: MaxRunning | None = Field(
        None, description="target: answered together within the others"
    )


class Recipe(Spec):
    name: Annotated[str, AfterValidator(check_name)] = Field(description="names the model")
    data: tuple[DataSpec, ...] = Field(
        min_length=1, description="sources, of one or several fields"
    )
    budget: Budget = Field(default_factory=Budget, description="what training may take")
    seed: Annotated[int, Whole(0, 2**31 - 1)] = Field(0, description="of everything random")
    hardware: HardwareSpec = Field(default_factory=HardwareSpec, description="auto: this machine")
    prepare: PrepareSpec = Field(default_factory=PrepareSpec, description="cleaning and tokens")
    model: ModelSpec = Field(default_factory=ModelSpec, description="sizes; auto: chosen by plan")
    train: TrainSpec = Field(default_factory=TrainSpec, description="how it is trained")
    compress: Annotated[
        CompressSpec, BeforeValidator(lambda v: {"formats": ()} if v in NONE else v)
    ] = Field(default_factory=CompressSpec, description="smaller variants; none: no such")
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec, description="how it is scored")
    serve: ServeSpec = Field(default_factory=ServeSpec, description="how it is served")

    @property
    def train_time_s(self) -> float | None:
        """The budget on this machine, in seconds of training; None if it is no time or money."""
        budget, price = self.budget, self.hardware.usd_per_device_hour
        hours = budget.usd / price if budget.usd and price else budget.device_hours
        return budget.train_time if hours is None else 3600 * hours
