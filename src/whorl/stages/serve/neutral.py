"""Fields of a wire format that whorl has no use for.

A field is taken at values that cannot change the answer, and refused by its name at any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ABOUT_CLIENT", "OPENAI", "Neutral"]


@dataclass(frozen=True)
class Neutral:
    """same: field -> values at which the answer is as without it. (): at none.

    about_client: field -> (type, in words): who asks, and what the service does besides answering;
    taken at any value of the type.
    """

    same: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    about_client: Mapping[str, tuple[type, str]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)  # why a field is refused

    def takes(self, key: str, value: Any, optional: Set[str]) -> bool:
        """Whether a field may be left out. optional: those that are used, and need not be given."""
        if value is None:
            return key in self.same or key in self.about_client or key in optional
        if key in self.about_client:
            return isinstance(value, self.about_client[key][0])
        return any(_is_same(value, accepted) for accepted in self.same.get(key, ()))

    def refusal(self, key: str) -> str | None:
        """What to say of a field that is known and was not taken; None: it is not known."""
        if key in self.about_client:
            return f"expected {self.about_client[key][1]}"
        if key not in self.same:
            return None
        if key in self.reasons:
            return self.reasons[key]
        accepted = " or ".join(json.dumps(value) for value in self.same[key])
        return f"not supported, only {accepted}" if accepted else "not supported; leave it out"


ABOUT_CLIENT: dict[str, tuple[type, str]] = {
    "user": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "prompt_cache_key": (str, "a string"),
    "prompt_cache_retention": (str, "a string"),
    "service_tier": (str, "a string"),
    "metadata": (dict, "an object"),
}
OPENAI = Neutral(
    same={
        "best_of": (1,),
        "echo": (False,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "suffix": ("",),
        "modalities": (["text"],),
        "parallel_tool_calls": (True,),
        **dict.fromkeys(
            ("audio", "function_call", "functions", "prediction", "web_search_options"), ()
        ),
        **dict.fromkeys(("reasoning_effort", "verbosity", "moderation"), ()),
        # of vLLM
        **dict.fromkeys(
            ("use_beam_search", "include_stop_str_in_output", "early_stopping"), (False,)
        ),
        **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens"), (True,)),
        **dict.fromkeys(("add_generation_prompt",), (True,)),
        **{"length_penalty": (1,), "min_tokens": (0,), "priority": (0,)},
        **dict.fromkeys(("prompt_logprobs", "truncate_prompt_tokens"), ()),
    },
    about_client={**ABOUT_CLIENT, "store": (bool, "true or false")},
)


def _is_same(value: object, accepted: object) -> bool:
    """Equal, and a number where a number is meant: true is not 1."""
    numbers = type(value) is float and type(accepted) is int
    return (type(value) is type(accepted) or numbers) and value == accepted
