"""Fields of OpenAI's API, and of other servers', that whorl has no use for.

A field is taken at values that cannot change the answer, and refused by its name at any other.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

__all__ = ["is_neutral", "refusal_of"]

# What is generated: at these values as without the field.
SAME: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    **dict.fromkeys(
        ("audio", "function_call", "functions", "prediction", "web_search_options"), ()
    ),
    **dict.fromkeys(("reasoning_effort", "verbosity"), ()),
}
# Who asks, and what the service does besides answering: at any value of this kind.
ABOUT_CLIENT: dict[str, tuple[type, str]] = {
    "user": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "prompt_cache_key": (str, "a string"),
    "prompt_cache_retention": (str, "a string"),
    "service_tier": (str, "a string"),
    "metadata": (dict, "an object"),
    "store": (bool, "true or false"),
}


def is_neutral(key: str, value: Any, optional: Set[str]) -> bool:
    """Whether a field may be left out. optional: fields that are used, and need not be given."""
    if value is None:
        return key in SAME or key in ABOUT_CLIENT or key in optional
    if key in ABOUT_CLIENT:
        return isinstance(value, ABOUT_CLIENT[key][0])
    return any(_is_same(value, accepted) for accepted in SAME.get(key, ()))


def refusal_of(key: str) -> str | None:
    """What to say of a field that is known and not neutral; None: it is not known."""
    if key in ABOUT_CLIENT:
        return f"expected {ABOUT_CLIENT[key][1]}"
    if key not in SAME:
        return None
    accepted = " or ".join(json.dumps(value) for value in SAME[key])
    return f"not supported, only {accepted}" if accepted else "not supported; leave it out"


def _is_same(value: object, accepted: object) -> bool:
    """Equal, and a number where a number is meant: true is not 1."""
    numbers = type(value) is float and type(accepted) is int
    return (type(value) is type(accepted) or numbers) and value == accepted
