"""The body of a chat: what is taken, and what hangs together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from whorl.stages.serve.ask import Chat, Tools
from whorl.stages.serve.dialects.chat import ChatBody, ask
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.request import parse_body


def test_a_chat_takes_what_openai_takes() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    given = {"model": "m", "messages": messages, "max_completion_tokens": 7, "n": 1}
    body = parse_body(json.dumps(given).encode(), ChatBody)
    asked = ask(body)
    assert asked.prompts == (Chat(messages),) and asked.max_tokens == 7
    for wrong, match in (
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": messages, "chat_template": "{{ 1 }}"}, "unknown field chat_template"),
        ({"messages": messages, "prompt": "Hi"}, "unknown field prompt"),
        ({"prompt": "Hi"}, "messages is missing|unknown field prompt"),
    ):
        with pytest.raises(ApiError, match=match):
            parse_body(json.dumps({"model": "m", **wrong}).encode(), ChatBody)


def chat(**fields: Any) -> ChatBody:
    messages = [{"role": "user", "content": "Hi"}]
    return parse_body(json.dumps({"model": "m", "messages": messages, **fields}).encode(), ChatBody)


def test_text_parts_are_one_text_and_empty_texts_are_texts() -> None:
    parts = [
        {"type": "text", "text": "a "},
        {"type": "text", "text": ""},
        {"type": "text", "text": "b"},
    ]
    body = chat(messages=[{"role": "user", "content": parts, "name": "x"}])
    assert body.messages == [{"role": "user", "content": "a b", "name": "x"}]
    for empty in ("", [], [{"type": "text", "text": ""}]):
        assert chat(messages=[{"role": "user", "content": empty}]).messages[0]["content"] == ""
    silent = {"role": "assistant", "tool_calls": []}
    assert chat(messages=[silent, {**silent, "content": None}]).messages[0] == silent


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], ["at least one message"]),
        ({}, ["at least one message"]),
        ("Hi", ["at least one message", '"Hi"']),
        (["Hi"], ["at least one message"]),
        ([{}], ["messages[0].role"]),
        ([{"role": None, "content": "x"}], ["messages[0].role", "null"]),
        ([{"role": "user"}], ["messages[0].content", "null"]),
        ([{"role": "user", "content": 5}], ["messages[0].content", "5"]),
        ([{"role": "user", "content": {"text": "x"}}], ["messages[0].content"]),
        ([{"role": "user", "content": ["x"]}], ["messages[0].content[0]", '"x"']),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            ],
            ["messages[1].content[0]", "image_url"],
        ),
    ],
)
def test_what_is_no_message_is_named_by_its_place(messages: Any, words: list[str]) -> None:
    with pytest.raises(ApiError) as caught:
        chat(messages=messages)
    assert caught.value.param == "messages" and caught.value.status == 400
    assert all(word in caught.value.message for word in words), caught.value.message


def test_two_names_of_one_limit() -> None:
    def limit(**fields: Any) -> tuple[str, int | None]:
        asked = ask(chat(**fields))
        return asked.limit_name, asked.max_tokens

    assert limit() == ("max_tokens", None)
    assert limit(max_tokens=5) == ("max_tokens", 5)
    assert limit(max_completion_tokens=5) == ("max_completion_tokens", 5)
    assert limit(max_completion_tokens=5, max_tokens=5)[1] == 5
    assert limit(max_completion_tokens=5, max_tokens=None)[1] == 5
    for wrong in ({"max_tokens": 4}, {"max_tokens": 0}, {"max_tokens": "5"}):
        with pytest.raises(ApiError, match="max_tokens"):
            chat(max_completion_tokens=5, **wrong)


F, G = ({"type": "function", "function": {"name": name}} for name in "fg")


def test_tools_are_shown_to_the_model_unless_none_may_be_called() -> None:
    def tools(**fields: Any) -> Tools | None:
        (asked,) = ask(chat(**fields)).prompts
        assert isinstance(asked, Chat)
        return asked.tools

    both = [F, G]
    assert tools(tools=both) == Tools(({"name": "f"}, {"name": "g"}))
    assert tools(tools=both, tool_choice="auto") == tools(tools=both)
    assert tools(tools=both, tool_choice="none") is None is tools(tools=[]) is tools()
    forced = tools(tools=both, tool_choice="required")
    assert forced is not None and forced.must_call and forced.only is None
    named = tools(tools=both, tool_choice=G)
    assert named is not None and named.must_call and named.only == "g"
    single = tools(tools=both, parallel_tool_calls=False)
    assert single is not None and single.most == 1


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [F], "tool_choice": G}, "tool_choice", "there is no tool 'g'"),
        ({"tools": [F], "tool_choice": "f"}, "tool_choice", "expected"),
        ({"tools": [F, F]}, "tools", "one name"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools", "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools",
            "tools[0].function.parameters",
        ),
        ({"tools": [{**F, "function": {"name": "f", "x": 1}}]}, "tools", "function.x is unknown"),
        ({"tools": [{**F, "function": {"name": f"f{i}"}} for i in range(129)]}, "tools", "limit"),
        ({"top_logprobs": 2}, "top_logprobs", "only with logprobs"),
        ({"continue_final_message": True}, "continue_final_message", "assistant"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs", "messages"),
        ({"chat_template_kwargs": {"x": [1]}}, "chat_template_kwargs", "expected"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]},
            "messages",
            "messages[0].tool_calls[0]",
        ),
    ],
)
def test_what_hangs_together_is_checked(fields: Any, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.param == param and words in caught.value.message, caught.value.message
