"""The shape of a decoder-only transformer (HF Qwen3 or Llama), without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from whorl.core.errors import SpecError

__all__ = ["Architecture"]


class Architecture(BaseModel):
    """Sizes in elements. qk_norm is what tells Qwen3 from Llama."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["qwen3", "llama"] = "qwen3"
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied_embeddings: bool = True

    @model_validator(mode="after")
    def _check(self) -> Architecture:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn_width", "vocab_size"):
            if getattr(self, name) < 1:
                raise SpecError(f"model.{name}", found=getattr(self, name), expected="at least 1")
        if self.heads % self.kv_heads:
            raise SpecError(
                f"model.heads {self.heads} is not divisible by model.kv_heads {self.kv_heads}",
                do=f"set kv_heads to a divisor of {self.heads}",
            )
        if self.head_dim % 2:
            raise SpecError("model.head_dim must be even for rotary positions", found=self.head_dim)
        return self
