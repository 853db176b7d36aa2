"""Rows of any kind: a chat that templates can write, a text, or a refusal with its reason."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.fields.chat_shapes import SHAPES, recognised

KEYS = ["messages", "conversations", "role", "from", "content", "value", "tool_calls", "function"]
KEYS += ["name", "arguments", "tools", "prompt", "chosen", "rejected", "input", "instruction"]
KEYS += ["output", "history", "system", "text", "id", "tool_call_id", "weight", "completion"]
LEAVES = st.sampled_from(["user", "assistant", "tool", "x", "", "[1]", '{"a": 1}', "gpt", "\0"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_any_row_is_a_document_or_refused_for_a_reason(row: dict[str, Any]) -> None:
    """And what is a chat can be encoded, as far as its shape goes."""
    try:
        found = recognised(row, "text", lambda words: None)
    except ValueError as error:
        assert error.args and all(isinstance(words, str) for words in error.args)
        return
    assert found.shape in SHAPES and (found.chats or found.text is not None)
    for chat in found.chats:
        roles = [message["role"] for message in chat["messages"]]
        assert roles[-1] == "assistant" and {*roles} <= {"system", "user", "assistant", "tool"}
        assert all(isinstance(message["content"], str) for message in chat["messages"])
        assert set(chat.get("untrained", ())) < set(range(roles.count("assistant")))
        json.dumps(chat)
