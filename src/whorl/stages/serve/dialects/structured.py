"""Structured output under the names of OpenAI, vLLM and llama.cpp: all of them a `Grammar`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from whorl.core.ports import Grammar
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.request import load_json

__all__ = [
    "MAX_CHOICES",
    "OutputConfig",
    "ResponseFormat",
    "StructuredOutputs",
    "TextConfig",
    "grammar_of",
    "of_format",
]

MAX_REGEX_CHARS = 2**12
MAX_CHOICES = 1024
ANY_OBJECT = {"type": "object"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SchemaFormat(_Strict):
    """strict: taken at any value, an answer always follows its schema."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class _Text(_Strict):
    type: Literal["text"]


class _JsonObject(_Strict):
    type: Literal["json_object"]


class _JsonObjectOf(_JsonObject):
    """llama.cpp's: any object, or one of a schema."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


class _NamedSchema(SchemaFormat):
    """Of a name that changes nothing, and that llama.cpp's clients leave out."""

    name: str | None = None  # type: ignore[assignment]


class _JsonSchema(_Strict):
    type: Literal["json_schema"]
    json_schema: _NamedSchema


class _FlatJsonSchema(SchemaFormat):
    type: Literal["json_schema"]


class TextConfig(_Strict):
    """What Responses call it."""

    format: Annotated[_Text | _JsonObject | _FlatJsonSchema, Field(discriminator="type")] = Field(
        default_factory=lambda: _Text(type="text")
    )
    verbosity: Literal["medium"] | None = None

    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that is asked for; None: text."""
        if isinstance(self.format, _FlatJsonSchema):
            return self.format.schema_ or ANY_OBJECT
        return ANY_OBJECT if isinstance(self.format, _JsonObject) else None


class _BareSchema(_Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Strict):
    """What Anthropic's messages call it."""

    format: _BareSchema | None = None

    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that is asked for; None: text."""
        return None if self.format is None else self.format.schema_


ResponseFormat = Annotated[_Text | _JsonObjectOf | _JsonSchema, Field(discriminator="type")]


class StructuredOutputs(_Strict):
    """vLLM's: one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: str | None = None
    json_object: Literal[True] | None = None


def of_format(found: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that a format asks for; None: text."""
    if isinstance(found, _JsonSchema):
        return found.json_schema.schema_ or ANY_OBJECT
    return (found.schema_ or ANY_OBJECT) if isinstance(found, _JsonObjectOf) else None


def grammar_of(given: Mapping[str, tuple[str, Any]]) -> tuple[Grammar | None, str]:
    """(grammar, field it came in) of at most one wish; given: field -> (kind, value or None).

    Kinds: json, regex, choice, ebnf. Raises ApiError on two wishes, or an empty one, or
    a regular expression that is too long.
    """
    wishes = {field: found for field, found in given.items() if found[1] is not None}
    if not wishes:
        return None, ""
    if len(wishes) > 1:
        names = " and ".join(wishes)
        raise invalid(f"{names}: an answer follows one of them; leave the others out", [*wishes][1])
    ((field, (kind, value)),) = wishes.items()
    if kind == "json":
        grammar = Grammar("json_schema", _schema_text(value, field))
    elif kind == "choice":
        grammar = Grammar("ebnf", _one_of(value))
    else:
        grammar = Grammar("regex" if kind == "regex" else "ebnf", value)
    if kind == "regex" and len(value) > MAX_REGEX_CHARS:
        told = f"{len(value):,} characters are over the limit of {MAX_REGEX_CHARS:,}"
        raise invalid(f"{field}: {told}", field)
    if not grammar.text:
        raise invalid(f"{field}: nothing is allowed by an empty text", field)
    return grammar, field


def _schema_text(value: Any, field: str) -> str:
    """As JSON; one that is sent as a text is read as strictly as the body around it."""
    if isinstance(value, str):
        try:
            value = load_json(value.encode("utf-8", "surrogatepass"))
        except ApiError as error:
            told = error.message.replace("the body", "the schema")
            raise invalid(f"{field}: {told}", field, "invalid_grammar") from None
    return json.dumps(value, ensure_ascii=False)


def _one_of(choices: Sequence[str]) -> str:
    """A grammar whose answers are these texts."""
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
