"""Keys inside messages, blocks and tools: used, without effect, or refused by their place.

What real clients send is read from the types of the official packages.
"""

from __future__ import annotations

from typing import Any

import anthropic.types as anthropics
import openai.types.responses as responses
import pytest
from openai.types.chat import ChatCompletionContentPartTextParam
from openai.types.responses.response_input_item_param import FunctionCallOutput

from tests.stages.serve.dialects.conftest import CALL, WEATHER, Scripted
from whorl.stages.serve.dialects import anthropic_input, chat_messages, responses_input, tools

CACHE = {"cache_control": {"type": "ephemeral"}}
ASK = {"role": "user", "content": "x"}
TEXT = {"type": "text", "text": "x"}
USE = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "warm"}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "abc"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
CALLED = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "warm"}


def known(form: tuple[Any, Any]) -> set[str]:
    used, neutral = form
    return {*used, *neutral.same, *neutral.about_client}


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (anthropic_input.BLOCKS["thinking"], anthropics.ThinkingBlockParam),
        (anthropic_input.BLOCKS["tool_use"], anthropics.ToolUseBlockParam),
        (anthropic_input.BLOCKS["tool_result"], anthropics.ToolResultBlockParam),
        ((chat_messages.PART_KEYS, anthropic_input.TEXT), anthropics.TextBlockParam),
        ((("type", "input_schema", *tools.KEYS), tools.TOOL), anthropics.ToolParam),
        ((("type", *tools.KEYS), tools.TOOL), responses.FunctionToolParam),
        (responses_input.ITEMS["message"], responses.ResponseOutputMessageParam),
        (responses_input.ITEMS["message"], responses.EasyInputMessageParam),
        (responses_input.ITEMS["function_call"], responses.ResponseFunctionToolCallParam),
        (responses_input.ITEMS["function_call_output"], FunctionCallOutput),
        (responses_input.ITEMS["reasoning"], responses.ResponseReasoningItemParam),
        ((chat_messages.PART_KEYS, responses_input.PART), responses.ResponseInputTextParam),
        ((chat_messages.PART_KEYS, responses_input.PART), responses.ResponseOutputTextParam),
        ((chat_messages.PART_KEYS, chat_messages.PART), ChatCompletionContentPartTextParam),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_key_of_the_official_types_is_decided(form: Any, kind: Any) -> None:
    """None of them is refused as one that nobody knows."""
    assert set(kind.__annotations__) <= known(form)


def user(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def said(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [ASK, {"role": "assistant", "content": list(blocks)}, *user(RESULT)]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": user(TEXT | {"citations": [{}]})}, "messages[0].content[0].citations"),
        ({"messages": user(TEXT | {"txt": "x"})}, "messages[0].content[0].txt"),
        ({"messages": user(TEXT | {"cache_control": 1})}, "messages[0].content[0].cache_control"),
        ({"messages": [ASK | {"id": "a"}]}, "messages[0].id"),
        ({"messages": said(USE | {"inputs": {}})}, "messages[1].content[0].inputs"),
        ({"messages": said(USE | {"caller": {"type": "code"}})}, "messages[1].content[0].caller"),
        ({"messages": said(THINKING | {"budget": 1})}, "messages[1].content[0].budget"),
        ({"messages": user(RESULT | {"is_error": "no"})}, "messages[0].content[0].is_error"),
        ({"messages": user(RESULT | {"error": True})}, "messages[0].content[0].error"),
        (
            {"messages": user(RESULT | {"content": [TEXT | {"x": 1}]})},
            "messages[0].content[0].content[0].x",
        ),
        ({"messages": [ASK], "system": [TEXT | {"x": 1}]}, "system[0].x"),
        ({"messages": [ASK], "tools": [TOOL | {"input_examples": [{}]}]}, "tools[0].input_example"),
        ({"messages": [ASK], "tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"messages": [ASK], "tools": [TOOL | {"x": 1}]}, "tools[0].x"),
    ],
)
def test_unknown_keys_of_messages_are_named(scripted: Scripted, fields: Any, place: str) -> None:
    for path, more in (("/v1/messages", {"max_tokens": 9}), ("/v1/messages/count_tokens", {})):
        response = scripted.post(path, **fields, **more)
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(place), response.text


@pytest.mark.parametrize(
    ("item", "key"),
    [
        (ASK | {"phase": "commentary"}, "phase"),
        (ASK | {"nme": "x"}, "nme"),
        (CALLED | {"namespace": "x"}, "namespace"),
        (CALLED | {"argument": "x"}, "argument"),
        (OUTPUT | {"name": "x"}, "name"),
        (OUTPUT | {"outputs": "x"}, "outputs"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, "summary"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "x"}, "encrypted_content"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x", "y": 1}]},
            "content[0].y",
        ),
        (
            {"role": "assistant", "content": [{"type": "output_text", "text": "x", "y": 1}]},
            "content[0].y",
        ),
    ],
)
def test_unknown_keys_of_items_are_named(scripted: Scripted, item: Any, key: str) -> None:
    response = scripted.post("/v1/responses", input=[ASK, item])
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"].startswith("input[1]")
    assert error["message"].startswith(f"input[1].{key}"), error


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"role": "user", "content": [TEXT | {"y": 1}]}, "content[0].y"),
        ({"role": "assistant", "content": None, "refusal": "I will not."}, "refusal"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_unknown_keys_of_chats_are_named(scripted: Scripted, message: Any, key: str) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        response = scripted.post(path, messages=[ASK, message, ASK])
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(f"messages[1].{key}"), response.text
    tool = {"type": "function", "function": WEATHER, "x": 1}
    for path in ("/v1/chat/completions", "/tokenize"):
        assert scripted.post(path, messages=[ASK], tools=[tool]).status_code == 400


def test_what_clients_send_beside_is_taken_and_changes_no_prompt(scripted: Scripted) -> None:
    scripted.say("Fine.")
    plain = [*said(TEXT, USE)[:2], *user(RESULT, TEXT)]
    marked = [
        ASK,
        {"role": "assistant", "content": [TEXT | CACHE | {"citations": None}, USE | CACHE]},
        *user(RESULT | CACHE | {"is_error": False}, TEXT | CACHE | {"citations": []}),
    ]
    tool = TOOL | CACHE | {"eager_input_streaming": True, "allowed_callers": ["direct"]}
    prompts = []
    for messages, offered in ((plain, TOOL), (marked, tool)):
        response = scripted.post("/v1/messages", messages=messages, tools=[offered], max_tokens=9)
        assert response.status_code == 200, response.text
        prompts.append(scripted.asked.prompt_ids)
    assert prompts[0] == prompts[1]


def test_what_the_server_answered_may_be_sent_again(scripted: Scripted) -> None:
    """Every item and block that it makes is one that it reads."""
    scripted.say(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}")
    tool = {"type": "function", **WEATHER}
    first = scripted.post("/v1/responses", input="x", tools=[tool], top_logprobs=1).json()
    items = [*first["output"], OUTPUT | {"call_id": first["output"][-1]["call_id"]}]
    assert {item["type"] for item in items} > {"reasoning", "message", "function_call"}
    again = scripted.post("/v1/responses", input=[ASK, *items], tools=[tool])
    assert again.status_code == 200, again.text
    assert "Hm." in scripted.prompt and "São Paulo" in scripted.prompt
    offered = {"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}
    body = {"tools": [offered], "max_tokens": 200}
    message = scripted.post("/v1/messages", messages=[ASK], **body).json()
    talk = [ASK, {"role": "assistant", "content": message["content"]}, *user(RESULT)]
    assert scripted.post("/v1/messages", messages=talk, **body).status_code == 200


def test_that_a_tool_failed_reaches_the_template(scripted: Scripted) -> None:
    """As a key of its message; one that is false is none."""
    scripted.say("Fine.")
    failed = [*said(USE)[:2], *user(RESULT | {"is_error": True})]
    answer = scripted.post("/v1/messages", messages=failed, max_tokens=9)
    assert answer.status_code == 200 and "Result: warm" in scripted.prompt
    for flag, told in ((True, {"is_error": True}), (False, {}), (None, {})):
        (message,) = anthropic_input.chat_of_messages(user(RESULT | {"is_error": flag}), None)
        assert message == {"role": "tool", "tool_call_id": "a", "content": "warm"} | told
