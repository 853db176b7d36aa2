"""Which format a model uses: decided once, from its chat template."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whorl.core.errors import SpecError
from whorl.stages.serve.formats import hermes, mistral, think
from whorl.stages.serve.formats.events import Reader, SayingReader
from whorl.stages.serve.formats.plain_json import PlainJsonReader

__all__ = ["CallFormat", "Dialogue", "Voice", "call_schema", "dialogue_of"]

PYTHON_TAG = "<|python_tag|>"
DEFINITIONS = ("$defs", "definitions")
ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True)
class CallFormat:
    """How calls are written.

    opening: what stands before a call that must be made. arguments: how its JSON names them. marks:
    special tokens that are part of the text. id_chars: of a call's id, where templates want it so.
    """

    name: str
    reader: Callable[[Collection[str]], Reader]  # of the names of functions
    opening: str = ""
    arguments: str = "arguments"
    marks: tuple[str, ...] = ()
    is_list: bool = False  # calls stand in a list
    id_chars: int | None = None

    def new_id(self) -> str:
        """The id of a call."""
        if self.id_chars is None:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(ALPHANUMERIC) for _ in range(self.id_chars))


@dataclass(frozen=True)
class Voice:
    """How the text of one answer is to be read: what of it is said, thought and called."""

    reader: Reader = field(default_factory=SayingReader)
    new_call_id: Callable[[], str] = str
    most_calls: int | None = None


HERMES = CallFormat(
    "hermes", lambda names: hermes.HermesReader(), f"{hermes.OPEN}\n", marks=(hermes.OPEN,)
)
MISTRAL = CallFormat(
    "mistral",
    lambda names: mistral.MistralReader(),
    mistral.CALLS,
    marks=(mistral.CALLS, mistral.ARGS),
    is_list=True,
    id_chars=9,
)
LLAMA3_JSON = CallFormat(
    "llama3_json",
    lambda names: PlainJsonReader(names, PYTHON_TAG),
    arguments="parameters",
    marks=(PYTHON_TAG,),
)
PLAIN_JSON = CallFormat("json", PlainJsonReader)


@dataclass(frozen=True)
class Dialogue:
    """How a model's answers are read. calls None: its template shows no tools."""

    calls: CallFormat | None = None
    thinks: bool = False  # in <think> … </think>
    has_developer: bool = False  # the template knows the role

    @property
    def marks(self) -> tuple[str, ...]:
        """Special tokens that are part of an answer's text."""
        own = () if self.calls is None else (*self.calls.marks, hermes.CLOSE)
        return (*own, think.OPEN, think.CLOSE) if self.thinks else own

    def reader(self, names: Collection[str] | None, is_thinking: bool, is_forced: bool) -> Reader:
        """For one answer. names: of functions that may be called; None: there are none.

        is_thinking: the prompt ends in the middle of a thought. is_forced: a call must come, and
        the prompt ends with what stands before it.
        """
        reader: Reader = SayingReader()
        if names is not None and self.calls is not None:
            reader = self.calls.reader(names)
            if is_forced:
                reader.push(self.calls.opening)
                return reader
        if not self.thinks:
            return reader
        return think.ThinkReader(reader, is_thinking)


def dialogue_of(template: str | None) -> Dialogue:
    """What a template says of how its model answers."""
    if template is None:
        return Dialogue()
    found = Dialogue(None, think.CLOSE in template, "developer" in template)
    if "tools" not in template:
        return found
    if mistral.CALLS in template:
        is_new = mistral.ARGS in template
        return replace(found, calls=replace(MISTRAL, is_list=False) if is_new else MISTRAL)
    if hermes.OPEN in template:
        return replace(found, calls=HERMES)
    is_llama = PYTHON_TAG in template or '"parameters": dictionary of argument' in template
    return replace(found, calls=LLAMA3_JSON if is_llama else PLAIN_JSON)


def call_schema(
    calls: CallFormat, functions: Sequence[Mapping[str, Any]], only: str | None
) -> dict[str, Any]:
    """The JSON schema of one call of the functions, or of the one that is named.

    Raises SpecError where the format's calls are not JSON as a whole.
    """
    if calls.opening == mistral.CALLS and not calls.is_list:
        raise SpecError(
            "this model writes calls in a form that no JSON schema describes",
            do='take tool_choice "auto"',
        )
    definitions: dict[str, Any] = {}
    forms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                calls.arguments: _hoisted(
                    function.get("parameters") or {"type": "object"}, number, definitions
                ),
            },
            "required": ["name", calls.arguments],
            "additionalProperties": False,
        }
        for number, function in enumerate(functions)
        if only is None or function["name"] == only
    ]
    schema: dict[str, Any] = forms[0] if len(forms) == 1 else {"anyOf": forms}
    if calls.is_list:
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema | ({"$defs": definitions} if definitions else {})


def _hoisted(schema: Any, number: int, definitions: dict[str, Any]) -> Any:
    """A schema whose own definitions stand in `definitions`, under names of this function."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        found = {key: moved(item) for key, item in value.items()}
        kind, _, name = str(value.get("$ref", "")).removeprefix("#/").partition("/")
        if kind in DEFINITIONS:
            found["$ref"] = f"#/$defs/f{number}_{name}"
        return found

    for kind in DEFINITIONS:
        for name, value in (schema.get(kind) or {}).items():
            definitions[f"f{number}_{name}"] = moved(value)
    return moved({key: value for key, value in schema.items() if key not in DEFINITIONS})
