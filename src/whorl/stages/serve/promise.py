"""What a server can keep to, for how many users at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from whorl.core.units import format_bytes
from whorl.spec.resolved import ServeConfig

__all__ = ["Promise"]


class Promise(BaseModel):
    """Figures of the hardest moment: all users send a new prompt at the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    basis: Literal["predicted", "measured"]
    users: int = Field(ge=1, description="requests that are answered together")
    ttft_p95_s: float = Field(gt=0, description="until the first token, of 95 in 100")
    tokens_per_s_per_user: float = Field(gt=0, description="of the slowest, after its first token")
    tokens_per_s: float = Field(
        gt=0, description="of all users together, with the reading of prompts"
    )
    prompt_tokens: int = Field(
        ge=1, description="of each prompt; a longer one takes longer to read"
    )
    answer_tokens: int | None = Field(
        None, ge=2, description="asked for of each; of up to 32 the rest is taken to come as fast"
    )
    memory_bytes: int = Field(ge=0, description="at most, of weights, cache and what runs them")
    missed: tuple[str, ...] = Field((), description="targets of serve that are not kept")

    def against(self, config: ServeConfig) -> tuple[str, ...]:
        """The targets that this does not keep, each with what it is instead."""
        missed = []
        if config.users is not None and self.users < config.users:
            missed.append(f"users {config.users}: {self.users}")
        if config.ttft_p95 is not None and self.ttft_p95_s > config.ttft_p95:
            told = _seconds(self.ttft_p95_s)
            missed.append(f"ttft_p95 {_seconds(config.ttft_p95)}: {told}")
        wanted = config.tokens_per_s_per_user
        if wanted is not None and self.tokens_per_s_per_user < wanted:
            told = f"{self.tokens_per_s_per_user:.3g}"
            missed.append(f"tokens_per_s_per_user {wanted:g}: {told}")
        return tuple(missed)

    def for_fewer(self, users: int, config: ServeConfig) -> Promise:
        """The same for fewer users: each of them waits at most so long, and is answered as fast."""
        together = self.tokens_per_s * users / self.users
        found = self.model_copy(update={"users": users, "tokens_per_s": together})
        return found.model_copy(update={"missed": found.against(config)})

    def __str__(self) -> str:
        sizes = f"prompts of {self.prompt_tokens} tokens"
        if self.answer_tokens is not None:
            sizes += f", answers of {self.answer_tokens}"
        told = (
            f"{self.users} users at once: first token within {_seconds(self.ttft_p95_s)}, "
            f"then {self.tokens_per_s_per_user:.3g} tokens/s each, "
            f"{self.tokens_per_s:,.0f} in all, prompts read too ({self.basis}, {sizes}); "
            f"memory up to {format_bytes(self.memory_bytes)}"
        )
        return told + "".join(f"; not kept: {each}" for each in self.missed)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
