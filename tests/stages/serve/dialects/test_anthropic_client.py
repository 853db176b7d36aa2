"""The official `anthropic` client against a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.stages.serve.conftest import API_KEY
from tests.stages.serve.dialects.conftest import CALL, WEATHER, Scripted

ASK = [{"role": "user", "content": "How is the weather?"}]
TOOL = {
    "name": "get_weather",
    "description": WEATHER["description"],
    "input_schema": WEATHER["parameters"],
}


@pytest.fixture(scope="module")
def client(scripted: Scripted) -> Iterator[Any]:
    with anthropic.Anthropic(
        api_key=API_KEY,
        base_url=scripted.running.base_url,
        http_client=anthropic.DefaultHttpxClient(trust_env=False),
    ) as opened:
        yield opened


def test_a_message_whole_and_streamed(client: Any, scripted: Scripted) -> None:
    scripted.say("<think>\nHm, 漢.\n</think>\n\nIt is fine 🎉.")
    fields = {"model": "tiny", "messages": ASK, "max_tokens": 100, "system": "Be brief."}
    message = client.messages.create(**fields)
    thinking, text = message.content
    assert (thinking.thinking, text.text) == ("Hm, 漢.", "It is fine 🎉.")
    assert message.stop_reason == "end_turn" and message.usage.output_tokens > 5
    assert "<|system|>Be brief.<|end|>" in scripted.prompt
    with client.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == "It is fine 🎉."
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "Hm, 漢." and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == message.usage.output_tokens


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.type) == ("tiny", "model")
    assert client.models.retrieve("tiny").created_at == model.created_at


def test_tools_there_and_back(client: Any, scripted: Scripted) -> None:
    scripted.say(f"I look.\n{CALL}\n{CALL}")
    fields = {"model": "tiny", "messages": ASK, "max_tokens": 300, "tools": [TOOL]}
    message = client.messages.create(**fields)
    text, call, _ = message.content
    assert text.text == "I look." and message.stop_reason == "tool_use"
    assert call.input == {"city": "São Paulo"} and "The weather of a place" in scripted.prompt
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert final.content[1].input == {"city": "São Paulo"}
    assert kinds.count("content_block_stop") == 3 and kinds[-1] == "message_stop"
    single = {"type": "auto", "disable_parallel_tool_use": True}
    one = client.messages.create(**fields, tool_choice=single)
    assert [block.type for block in one.content] == ["text", "tool_use"]
    scripted.say("Sunny.")
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "25 °C", "cache_control": {"type": "ephemeral"}}],
    }
    rest = [
        {"role": "assistant", "content": [block.model_dump() for block in one.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    client.messages.create(**{**fields, "messages": [*ASK, *rest]})
    expected = f"I look.\n{CALL}<|end|><|user|>Result: 25 °C<|end|><|user|>So?<|end|>"
    assert expected in scripted.prompt


def test_a_tool_that_must_be_used(client: Any, scripted: Scripted) -> None:
    scripted.say('{"name": "get_weather", "arguments": {"city": "Oslo"}}')
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        message = client.messages.create(
            model="tiny", messages=ASK, max_tokens=100, tools=[TOOL], tool_choice=choice
        )
        assert message.content[0].input == {"city": "Oslo"}
        assert scripted.asked.grammar is not None


def test_stop_sequences_prefill_and_sampling(client: Any, scripted: Scripted) -> None:
    scripted.say("one two three")
    fields = {"model": "tiny", "max_tokens": 50}
    message = client.messages.create(**fields, messages=ASK, stop_sequences=["two", "x"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "two")
    assert message.content[0].text == "one "
    short = client.messages.create(model="tiny", max_tokens=2, messages=ASK)
    assert short.stop_reason == "max_tokens"
    begun = [*ASK, {"role": "assistant", "content": "It is"}]
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 3}
    client.messages.create(**fields, messages=begun, extra_body=sampling)
    assert scripted.prompt.endswith("<|assistant|>It is")
    asked = scripted.asked
    assert (asked.temperature, asked.top_p, asked.top_k) == (0.5, 0.9, 3)
    client.messages.create(**fields, messages=ASK, thinking={"type": "disabled"})
    assert scripted.prompt.endswith("<think>\n\n</think>\n\n")


def test_a_schema_and_the_count_of_tokens(client: Any, scripted: Scripted) -> None:
    scripted.say("{}")
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    client.messages.create(model="tiny", max_tokens=9, messages=ASK, output_config=form)
    assert scripted.asked.grammar is not None
    counted = client.messages.count_tokens(model="tiny", messages=ASK, tools=[TOOL])
    client.messages.create(model="tiny", max_tokens=9, messages=ASK, tools=[TOOL])
    assert counted.input_tokens == len(scripted.asked.prompt_ids)


def test_errors_have_the_clients_types(client: Any, scripted: Scripted) -> None:
    for fields, kind, word in (
        ({"model": "other"}, anthropic.NotFoundError, "no model"),
        ({"max_tokens": 513}, anthropic.BadRequestError, "limit"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, anthropic.BadRequestError, "bu"),
        ({"messages": [{"role": "robot", "content": ""}]}, anthropic.BadRequestError, "role"),
    ):
        given = {"model": "tiny", "max_tokens": 9, "messages": ASK, **fields}
        with pytest.raises(kind, match=word) as caught:
            client.messages.create(**given)
        assert caught.value.body["type"] == "error"
    picture = {"type": "image", "source": {"type": "url", "url": "x"}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.create(
            model="tiny", max_tokens=9, messages=[{"role": "user", "content": [picture]}]
        )
    wrong = client.with_options(api_key="wrong-wrong-wrong-wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model="tiny", max_tokens=9, messages=ASK)


def test_a_stream_that_fails_raises(client: Any, scripted: Scripted) -> None:
    scripted.say("word " * 50)
    engine = scripted.running.engine
    engine.stalled = True
    stream = client.messages.create(model="tiny", max_tokens=99, messages=ASK, stream=True)
    engine.fail("out of memory")
    engine.stalled = False
    with engine._changed:
        engine._changed.notify_all()
    with pytest.raises(anthropic.APIError, match="out of memory"):
        list(stream)
