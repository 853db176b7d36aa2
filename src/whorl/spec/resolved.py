"""What each stage runs on: every value explicit, frozen by plan, hashed into the stage's record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from whorl.core.frozen import Frozen
from whorl.spec.quantities import Whole
from whorl.spec.train_keys import TrainConfig

__all__ = [
    "MAX_DOCUMENTS",
    "CompressConfig",
    "EvaluateConfig",
    "MaxRunning",
    "MaxTokens",
    "MaxWaiting",
    "NumReplicas",
    "Port",
    "PrepareConfig",
    "ServeConfig",
    "TrainConfig",
]

MAX_DOCUMENTS = 5_000  # scored, where a recipe does not say

Port = Annotated[int, Whole(0, 65_535)]
MaxRunning = Annotated[int, Whole(1, 100_000)]
NumReplicas = Annotated[int, Whole(1, 64)]
MaxWaiting = Annotated[int, Whole(0, 10**7)]
MaxTokens = Annotated[int, Whole(1, 10**7)]


class PrepareConfig(Frozen):
    vocab_size: int = Field(description="ids in the token contract, all codecs and reserve")
    seq_len: int = Field(description="input tokens per row; a row holds seq_len + 1 ids")
    heldout_share: float = Field(0.05, description="share of documents held out, by content hash")
    seed: int = 0
    near_duplicate_jaccard: float = Field(0.8, description="verified similarity that drops a copy")
    max_repetition_ratio: float = Field(16.0, description="zlib ratio above which text goes")
    max_repeated_windows: float = Field(0.1, description="share of repeated windows of stale text")
    pairs: bool = Field(False, description="preferences as pairs, else the chosen answers alone")
    rows_per_shard: int = 65_536


class CompressConfig(Frozen):
    formats: tuple[Literal["int8", "int4"], ...] = ("int8",)
    leaves_out: bool = Field(False, description="a refused format is told, and is no error")
    max_bpb_increase: float = Field(0.01, description="share of the parent's bits per byte")
    max_documents: int = 200
    search: Literal["auto", "off", "fast", "full"] = "auto"
    search_time_s: float = 900.0
    cache: Literal["f32", "int8"] = "f32"
    speculation: Literal["off", "prompt_lookup"] = "off"
    seed: int = 0


class EvaluateConfig(Frozen):
    max_bytes: int = Field(600_000, description="held-out bytes scored, whole documents")
    max_documents: int = Field(MAX_DOCUMENTS, description="documents scored, however short")
    window: int = Field(description="tokens per scored window; stride is half of it")
    engine: str = Field("auto", description="of serve; what it does not serve is scored by another")
    bootstrap_samples: int = 2000
    baselines: bool = True
    contamination: bool = True
    seed: int = 0


class ServeConfig(Frozen):
    engine: str = "auto"
    variant: str | None = Field(None, description="None: by the targets, or the smallest")
    host: str = "127.0.0.1"
    port: Port = Field(8000, description="0: any free port")
    max_running: MaxRunning = 16
    max_waiting: MaxWaiting = 64
    max_tokens: MaxTokens = Field(512, description="limit of one request")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names to answer to, besides addresses and localhost"
    )
    allowed_origins: tuple[str, ...] = Field((), description="sites whose pages may ask (CORS)")
    max_wait: float = Field(30.0, gt=0, description="seconds")
    max_time: float = Field(600.0, gt=0, description="seconds")
    log_text: bool = False
    usd_per_million_tokens: float = Field(0.0, ge=0)
    replicas: NumReplicas = Field(1, description="engines side by side, each a process")
    where: Literal["here", "ray"] = Field("here", description="this machine, or a Ray cluster")
    ttft_p95: float | None = Field(None, gt=0, description="seconds to the first token")
    tokens_per_s_per_user: float | None = Field(None, gt=0)
    users: MaxRunning | None = Field(None, description="answered together")
    max_body_bytes: int = Field(256 * 2**10, ge=1)
    max_upload_bytes: int = Field(
        8 * 2**20,
        ge=1,
        description="of a form with a file, and of JSON to a model of images or sounds",
    )
    max_connections: int = Field(512, ge=1, description="beyond, the oldest idle one is closed")
    receive_s: float = Field(10.0, gt=0, description="deadline for a request's head, and its body")
    max_grammar_bytes: int = Field(32 * 2**10, ge=1, description="of a schema or grammar too")
    send_s: float = Field(30.0, gt=0, description="deadline for a client to take what is sent")
    stall_s: float = Field(30.0, gt=0, description="without a token for so long: unhealthy")
    watch_s: float = Field(2.0, gt=0, description="the registry is looked at so often")
    grace_s: float = Field(10.0, ge=0, description="running requests get so long at a stop")

    @property
    def has_targets(self) -> bool:
        return (self.users, self.ttft_p95, self.tokens_per_s_per_user) != (None, None, None)
