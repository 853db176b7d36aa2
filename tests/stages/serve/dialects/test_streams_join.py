"""Whatever a model writes: in every wire format the stream joins to the whole answer."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stages.serve.dialects.conftest import CALL, WEATHER, Scripted
from tests.stages.serve.dialects.test_wire_forms import events_of

ASK = [{"role": "user", "content": "Hi"}]
SCRAPS = [
    *(CALL, "<think>\nHm.\n</think>\n\n", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("word ", "漢🎉", "\n", '{"name": "f"', '{"name": "f"}', "}", "<", "STOP"),
]
scripts = st.lists(st.sampled_from(SCRAPS), max_size=6).map("".join)
ANYTHING = re.compile(r"call_[0-9a-f]{24}|[0-9a-f]{32}")


def without_ids(value: Any) -> Any:
    """The same with every id as X: those of two answers differ."""
    return json.loads(ANYTHING.sub("X", json.dumps(value)))


def joined_chat(events: list[tuple[str | None, Any]]) -> dict[str, Any]:
    """Choice 0 as a client joins it."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    reason = None
    for _, data in events[:-1]:
        (choice,) = data["choices"]
        delta = choice["delta"]
        for key in ("content", "reasoning_content"):
            if key in delta:
                message[key] = message.get(key, "") + delta[key]
        for piece in delta.get("tool_calls", ()):
            if piece["index"] == len(calls):
                calls.append({key: piece[key] for key in ("id", "type", "function")})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        assert reason is None  # nothing comes after the end
        reason = choice["finish_reason"]
    if calls:
        message |= {"tool_calls": calls, "content": message["content"] or None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


def joined_blocks(events: list[tuple[str | None, Any]]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    written = ""
    for name, data in events:
        if name == "content_block_start":
            assert data["index"] == len(blocks)
            blocks.append(data["content_block"])
            written = ""
        elif name == "content_block_delta":
            delta = data["delta"]
            written += delta.get("text", delta.get("thinking", delta.get("partial_json")))
        elif name == "content_block_stop":
            kind = blocks[-1]["type"]
            if kind == "tool_use":
                try:
                    blocks[-1]["input"] = json.loads(written)
                except ValueError:
                    blocks[-1]["input"] = {"invalid_json": written}
            else:
                blocks[-1]["text" if kind == "text" else "thinking"] = written
    return blocks


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts, st.sampled_from([3, 20, 400]), st.booleans())
def test_streams_join(scripted: Scripted, script: str, limit: int, single: bool) -> None:
    scripted.say(script)
    tool = {"type": "function", "function": WEATHER}
    fields: dict[str, Any] = {"messages": ASK, "tools": [tool], "max_tokens": limit}
    fields |= {"parallel_tool_calls": not single, "stop": "STOP"}
    (whole,) = scripted.post("/v1/chat/completions", **fields).json()["choices"]
    events = events_of(scripted.post("/v1/chat/completions", **fields, stream=True))
    assert without_ids(joined_chat(events)) == without_ids(whole)

    asked = {"input": "Hi", "tools": [{"type": "function", **WEATHER}]}
    asked |= {"max_output_tokens": limit, "parallel_tool_calls": not single}
    response = scripted.post("/v1/responses", **asked).json()
    last = events_of(scripted.post("/v1/responses", **asked, stream=True))[-1][1]["response"]
    assert without_ids(last["output"]) == without_ids(response["output"])
    assert (last["status"], last["usage"]) == (response["status"], response["usage"])
    for told in (last, response):
        assert (told["completed_at"] is not None) == (told["status"] == "completed")
    assert last.keys() == response.keys()

    choice = {"type": "auto", "disable_parallel_tool_use": single}
    sent: dict[str, Any] = {"messages": ASK, "max_tokens": limit, "stop_sequences": ["STOP"]}
    sent |= {
        "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}],
        "tool_choice": choice,
    }
    message = scripted.post("/v1/messages", **sent).json()
    events = events_of(scripted.post("/v1/messages", **sent, stream=True))
    blocks = joined_blocks(events)
    assert without_ids(blocks) == without_ids(message["content"])
    ending = events[-2][1]
    assert ending["delta"]["stop_reason"] == message["stop_reason"]
    assert ending["usage"]["output_tokens"] == message["usage"]["output_tokens"]
