"""The fields that OpenAI's completions and chats share, with vLLM's names for what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from whorl.core.ports import Grammar
from whorl.stages.serve.dialects.structured import (
    MAX_CHOICES,
    ResponseFormat,
    StructuredOutputs,
    grammar_of,
    of_format,
)
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.neutral import OPENAI, Neutral
from whorl.stages.serve.request import AnswerBody
from whorl.stages.serve.wire import event_of

__all__ = ["ANSWER_TOKENS", "ENGINE_NAMES", "SamplingBody", "StreamOptions", "failed", "usage_of"]

MAX_STOPS, MAX_STOP_CHARS = 4, 256
MAX_STOP_IDS = 64
MAX_N = 128
StopId = Annotated[int, Field(ge=0, lt=2**32)]
MAX_BIASES = 1024
Stop = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
ANSWER_TOKENS = "a whole number of tokens, at least 1"
# A field -> what of GenerateRequest it sets.
ENGINE_NAMES = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "logit_bias")},
    **{name: name for name in ("presence_penalty", "frequency_penalty", "repetition_penalty")},
    **dict.fromkeys(("response_format", "structured_outputs", "guided_json"), "grammar"),
    **dict.fromkeys(("guided_regex", "guided_choice", "guided_grammar"), "grammar"),
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # padding of the events


class SamplingBody(AnswerBody):
    """Defaults are OpenAI's."""

    neutral: ClassVar[Neutral] = OPENAI

    max_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)  # None: all there is room
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: int = Field(0, ge=-1, lt=2**31, description="a whole number; 0 and -1: all tokens")
    min_p: float = Field(0.0, ge=0, le=1, description="a number from 0 to 1")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="a number above 0 and at most 10"
    )
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] = Field(
        {}, description=f"up to {MAX_BIASES} token ids with numbers from -100 to 100"
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(
        [], description=f"up to {MAX_STOPS} strings of up to {MAX_STOP_CHARS} characters"
    )
    n: int = Field(1, ge=1, le=MAX_N, description=f"a whole number from 1 to {MAX_N}")
    stream_options: StreamOptions | None = Field(
        None, description='an object such as {"include_usage": true}, with stream'
    )
    ignore_eos: bool = Field(False, description="true or false: no token of the model ends it")
    stop_token_ids: Annotated[list[StopId], Field(max_length=MAX_STOP_IDS)] = Field(
        [], description=f"up to {MAX_STOP_IDS} token ids, each of which ends the answer"
    )
    response_format: ResponseFormat | None = Field(
        None,
        description='{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", '
        '"json_schema": {"name": …, "schema": {…}}}',
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description='one of {"json"}, {"regex"}, {"choice"}, {"grammar"}, {"json_object"}'
    )
    guided_json: dict[str, Any] | str | None = Field(None, description="a JSON schema")
    guided_regex: str | None = Field(None, description="a regular expression")
    guided_choice: list[str] | None = Field(
        None,
        min_length=1,
        max_length=MAX_CHOICES,
        description="a list of texts, one of which is answered",
    )
    guided_grammar: str | None = Field(None, description="a grammar in EBNF")

    @field_validator("logit_bias")
    @classmethod
    def _of_ids(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"logit_bias: {key[:40]!r} is no token id")
        return value

    @field_validator("structured_outputs")
    @classmethod
    def _asks_something(cls, value: StructuredOutputs | None) -> StructuredOutputs | None:
        if value == StructuredOutputs():
            raise ValueError("structured_outputs: json, regex, choice, grammar or json_object")
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> SamplingBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """An empty string stops nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(text for text in given if text)

    @property
    def with_usage(self) -> bool:
        """Whether a stream tells what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def grammar(self) -> Grammar | None:
        """What the answer must look like. Raises ApiError if that is said twice."""
        outputs = self.structured_outputs or StructuredOutputs()
        given = {
            "response_format": ("json", of_format(self.response_format)),
            "guided_json": ("json", self.guided_json),
            "guided_regex": ("regex", self.guided_regex),
            "guided_choice": ("choice", self.guided_choice),
            "guided_grammar": ("ebnf", self.guided_grammar),
            "structured_outputs.json": ("json", outputs.json_),
            "structured_outputs.regex": ("regex", outputs.regex),
            "structured_outputs.choice": ("choice", outputs.choice),
            "structured_outputs.grammar": ("ebnf", outputs.grammar),
            "structured_outputs.json_object": (
                "json",
                {"type": "object"} if outputs.json_object else None,
            ),
        }
        return grammar_of(given)[0]

    def sampling(self, engine_names: Mapping[str, str]) -> dict[str, Any]:
        """What of an `Ask` these fields say. Raises ApiError as `grammar`."""
        given = engine_names.keys() & self.model_fields_set
        return {
            "model": self.model,
            "n": self.n,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k),
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": {int(key): value for key, value in self.logit_bias.items()},
            "seed": self.seed,
            "stops": self.stops,
            "ignores_stop_ids": self.ignore_eos,
            "stop_ids": tuple(self.stop_token_ids),
            "grammar": self.grammar(),
            "names": {engine_names[name]: name for name in sorted(given)},
        }


def usage_of(generation: Generation) -> dict[str, int]:
    """What was read and written so far."""
    read, written = generation.prompt_tokens, generation.completion_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def failed(error: ApiError, num_events: int) -> str:
    """The event that ends a stream which failed."""
    return event_of(error.body)
