"""The items of a response's output, and the ids they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.core.ports import TokenLogprob
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.token_texts import logprobs_of
from whorl.stages.serve.turns import WrittenCall

__all__ = ["Told"]


@dataclass(frozen=True)
class Told:
    """Items as clients are told of them."""

    generation: Generation
    tokens: Tokens
    with_logprobs: bool

    def logprobs(self, found: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """Of a text's tokens, where they were asked for."""
        return logprobs_of(self.tokens, found) if self.with_logprobs else []

    def part(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
        """What a message holds."""
        told = self.logprobs(logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}

    def message(
        self, number: int, status: str, content: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """The number is its place in the output."""
        return {
            "id": f"msg_{self.generation.id}_{number}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content or [],
        }

    def reasoning(self, number: int, status: str, text: str | None = None) -> dict[str, Any]:
        """Thoughts, in full."""
        content = [] if text is None else [{"type": "reasoning_text", "text": text}]
        return {
            "id": f"rs_{self.generation.id}_{number}",
            "type": "reasoning",
            "summary": [],
            "content": content,
            "status": status,
        }

    def call(self, number: int, status: str, call: WrittenCall) -> dict[str, Any]:
        """One call of a function."""
        return {
            "id": f"fc_{self.generation.id}_{number}",
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
            "status": status,
        }
