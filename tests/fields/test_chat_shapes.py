"""Rows of any kind: a chat that templates can write, a text, or a refusal with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
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


ASKED, SAID = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}
OTHER = {"role": "assistant", "content": "c"}
GPT = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "c"}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a?", "output": "b", "response": "c"}, "the answer: response and output"),
        ({"prompt": "a?", "completion": "b", "answer": "c"}, "the answer: completion and answer"),
        ({"question": "a?", "prompt": "d?", "answer": "c"}, "the question: prompt and question"),
        ({"messages": [ASKED, SAID], "conversations": GPT}, "messages and conversations"),
        ({"messages": [ASKED, SAID], "dialog": [ASKED, OTHER]}, "messages and dialog"),
        ({"messages": [ASKED, SAID], "mine": [ASKED, OTHER]}, "messages and mine"),
        ({"messages": [ASKED, SAID], "history": [ASKED, OTHER]}, "messages and history"),
        ({"messages": [ASKED, SAID, ASKED], "response": "d"}, "outside the conversation: in resp"),
        (
            {"prompt": "a?", "chosen": "b", "rejected": "c", "preferred_output": "d"},
            "chosen answer",
        ),
        ({"prompt": "a?", "chosen": "b", "rejected": "c", "question": "d"}, "the prompt"),
        (
            {"prompt": "a?", "completion": "b", "system": "s", "system_prompt": "t"},
            "system message",
        ),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r"several keys|outside") as caught:
        recognised(row, "text", lambda words: None)
    assert reason in ": ".join(caught.value.args).replace("it has ", "")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "a?", "output": "b", "response": "b"},
        {"instruction": "a?", "output": "b", "response": ""},
        {"instruction": "a?", "output": "b", "answer": 7},
        {"messages": [ASKED, SAID], "conversations": [ASKED, SAID]},
        {"messages": [ASKED, SAID], "prompt": [ASKED], "answer": "the key of a test"},
        {"messages": [ASKED, SAID], "turns": 2},
        {"chosen": [ASKED, SAID], "rejected": [ASKED, OTHER], "messages": [ASKED, SAID]},
    ],
)
def test_what_says_the_same_twice_is_read(row: dict[str, Any]) -> None:
    """As files with the prompt, the parts or the length beside a chat have it."""
    messages = recognised(row, "text", lambda words: None).chats[0]["messages"]
    assert messages == [ASKED, SAID]
