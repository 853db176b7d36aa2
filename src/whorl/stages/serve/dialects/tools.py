"""Functions that a model may call, as requests name them, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from whorl.stages.serve.ask import Tools
from whorl.stages.serve.dialects.chat_messages import check_keys
from whorl.stages.serve.neutral import Neutral

__all__ = ["FunctionName", "NamedChoice", "checked_function", "functions_of", "tools_of"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MAX_TOOLS = 128
# Of OpenAI's Responses and Anthropic's tools, besides those of a function.
TOOL = Neutral(
    same={
        "async": (False,),
        "defer_loading": (False,),
        "allowed_callers": (["direct"],),
        **dict.fromkeys(("input_examples", "output_schema"), ()),
    },
    about_client={
        "cache_control": (dict, "an object"),
        "eager_input_streaming": (bool, "true or false"),
    },
)
KEYS = {"name": str, "description": str, "parameters": dict, "strict": bool}


class FunctionName(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str


class NamedChoice(BaseModel):
    """OpenAI's choice of one function."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["function"]
    function: FunctionName = Field(description="the one that must be called")


def checked_function(function: Any, where: str) -> dict[str, Any]:
    """A function as templates read it, its keys in their order. Raises ValueError by its place.

    strict is taken and not shown to the model: whether arguments follow their schema is up to it,
    unless the call must be made.
    """
    if not isinstance(function, Mapping):
        raise ValueError(f'{where} must be an object: {{"name": …, "parameters": {{…}}}}')
    check_keys(function, KEYS, TOOL, where)
    for key, value in ((key, function[key]) for key in function if key in KEYS):
        if value is not None and not isinstance(value, KEYS[key]):
            raise ValueError(f"{where}.{key} must be of the type {WORDS[KEYS[key]]}")
    if not NAME.fullmatch(function.get("name") or ""):
        raise ValueError(f"{where}.name must be 1 to 128 letters, digits, '_', '-' and '.'")
    return {key: value for key, value in function.items() if key in SHOWN and value is not None}


SHOWN = ("name", "description", "parameters")
WORDS = {str: "string", dict: "object", bool: "true or false"}


def functions_of(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of OpenAI's chats. Raises ValueError by their place."""
    for number, tool in enumerate(tools):
        if tool.get("type") != "function" or set(tool) != {"type", "function"}:
            raise ValueError(f'tools[{number}] must be {{"type": "function", "function": {{…}}}}')
    return [
        checked_function(tool["function"], f"tools[{number}].function")
        for number, tool in enumerate(tools)
    ]


def tools_of(
    functions: Sequence[Mapping[str, Any]], choice: str, parallel: bool, where: str
) -> Tools | None:
    """choice: auto, none, required, or the name of a function. Raises ValueError by its place."""
    if len(functions) > MAX_TOOLS:
        raise ValueError(f"tools: {len(functions)} are over the limit of {MAX_TOOLS}")
    names = [function["name"] for function in functions]
    if len(set(names)) < len(names):
        raise ValueError("tools: two of them have one name")
    if choice == "none" or (choice == "auto" and not functions):
        return None
    if not functions:
        raise ValueError(f"{where}: there are no tools to call")
    only = None if choice in ("auto", "required") else choice
    if only is not None and only not in names:
        raise ValueError(f"{where}: there is no tool {only[:40]!r}; there are {', '.join(names)}")
    return Tools(tuple(functions), choice != "auto", only, None if parallel else 1)
