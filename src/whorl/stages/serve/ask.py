"""What is asked of the model, whatever wire format it came in: the gateway sees nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whorl.core.ports import Grammar

__all__ = ["Ask", "Chat", "PartBody", "Prompt", "TokenId", "TokenIds", "Tools"]

TokenId = Annotated[int, Field(ge=0, lt=2**32)]
# The first that is wrong is told: each of 50,000 would take half a second.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class PartBody(BaseModel):
    """A piece of a prompt: one codec's value, as a text or as a file of its media type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    codec: str = Field(description='of the model, or "special": then the text names one')
    text: str | None = None
    data: str | None = Field(None, description="base64")

    @model_validator(mode="after")
    def _one_value(self) -> PartBody:
        if (self.text is None) == (self.data is None):
            raise ValueError("a part of a prompt has text or data, one of them")
        return self


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call, or must.

    functions: [{"name", "description", "parameters"}, …], as OpenAI's chats have them.
    """

    functions: tuple[Mapping[str, Any], ...]
    must_call: bool = False
    only: str | None = None  # the one that must be called
    most: int | None = None  # calls in one answer; None: any number


@dataclass(frozen=True)
class Chat:
    """Messages in OpenAI's form, and what else the template is given."""

    messages: Sequence[Mapping[str, Any]]
    tools: Tools | None = None  # None: there are none, or none may be called
    variables: Mapping[str, Any] = field(default_factory=dict)
    goes_on: bool = False  # the last message, which is the assistant's, is continued

    @property
    def has_images(self) -> bool:
        """Whether a message has parts: only one with an image keeps them."""
        return any(isinstance(message.get("content"), list) for message in self.messages)


Prompt = str | tuple[int, ...] | tuple[PartBody, ...] | Chat


@dataclass(frozen=True)
class Ask:
    """One request: for each prompt `n` answers.

    names: field of GenerateRequest -> the wire format's name for it, of every field that was given;
    what an engine cannot do is refused by that name.
    """

    model: str
    prompts: tuple[Prompt, ...]
    subject: str = "prompt"  # the wire format's name of what is asked
    n: int = 1
    max_tokens: int | None = None  # None: as many as there is room for
    limit_name: str = "max_tokens"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: another one each time
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()  # besides the model's
    ignores_stop_ids: bool = False  # no token of the model ends an answer
    logprobs: int | None = None
    grammar: Grammar | None = None
    allowed_ids: tuple[int, ...] | None = None
    answer_codec: str | None = None  # its ids alone are generated
    names: Mapping[str, str] = field(default_factory=dict)
