"""The official `openai` client against a server on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.stages.serve.conftest import API_KEY, Start
from tests.stages.serve.dialects.conftest import CALL, WEATHER, Scripted
from whorl.codecs.contract import Tokens

ASK = [{"role": "user", "content": "How is the weather?"}]
TOOL = {"type": "function", "function": WEATHER}


@pytest.fixture(scope="module")
def client(scripted: Scripted) -> Iterator[Any]:
    base_url = f"{scripted.running.base_url}/v1"
    with openai.OpenAI(
        api_key=API_KEY, base_url=base_url, http_client=httpx.Client(trust_env=False)
    ) as opened:
        yield opened


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny" and client.models.retrieve("tiny").id == "tiny"
    assert (model.tool_calls, model.reasoning) == ("hermes", "think")


def test_completions(client: Any, scripted: Scripted) -> None:
    scripted.say("one two", "three")
    answer = client.completions.create(
        model="tiny", prompt="a", n=2, max_tokens=20, logprobs=2, seed=5
    )
    assert [choice.text for choice in answer.choices] == ["one two", "three"]
    told = answer.choices[0].logprobs
    assert "".join(told.tokens) == "one two" and told.text_offset[0] == 0
    assert len(told.token_logprobs) == len(told.tokens) == len(told.top_logprobs)
    stream = client.completions.create(
        **{"model": "tiny", "prompt": ["a", "b"], "max_tokens": 20, "stream": True},
        stream_options={"include_usage": True},
    )
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["one two", "three"] and chunk.usage.completion_tokens > 3


def test_a_chat_whole_and_streamed(client: Any, scripted: Scripted) -> None:
    scripted.say("<think>\nHm, 漢.\n</think>\n\nIt is fine 🎉.")
    fields = {"model": "tiny", "messages": ASK, "max_tokens": 100}
    answer = client.chat.completions.create(**fields)
    message = answer.choices[0].message
    assert message.content == "It is fine 🎉." and message.reasoning_content == "Hm, 漢."
    assert answer.choices[0].finish_reason == "stop" and answer._request_id
    chunks = list(
        client.chat.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "It is fine 🎉."
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thoughts == "Hm, 漢."
    assert chunks[-1].usage == answer.usage


def test_what_is_asked_reaches_the_engine(client: Any, scripted: Scripted) -> None:
    scripted.say("ok")
    client.chat.completions.create(
        **{"model": "tiny", "messages": ASK, "max_tokens": 5, "temperature": 0.5, "top_p": 0.9},
        **{"seed": 7, "presence_penalty": 0.1, "frequency_penalty": -0.2, "n": 2},
        logit_bias={"20": -100},
        extra_body={"top_k": 4, "min_p": 0.05, "repetition_penalty": 1.1, "ignore_eos": True},
    )
    first, second = scripted.running.engine.submitted[-2:]
    assert (first.temperature, first.top_p, first.top_k, first.min_p) == (0.5, 0.9, 4, 0.05)
    assert (first.presence_penalty, first.frequency_penalty) == (0.1, -0.2)
    assert first.repetition_penalty == 1.1 and first.logit_bias == ((20, -100.0),)
    assert (first.seed, second.seed) == (7, 8) and first.stop_ids == ()


def test_log_probabilities(client: Any, scripted: Scripted) -> None:
    scripted.say("naïve 漢字")
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=50, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == "naïve 漢字"
    assert all(len(token.top_logprobs) == 2 and token.logprob < 0 for token in content)
    chunks = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=50, logprobs=True, top_logprobs=0, stream=True
    )
    told = [
        byte
        for chunk in chunks
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else ())
        for byte in token.bytes
    ]
    assert bytes(told).decode() == "naïve 漢字"


def test_tools_there_and_back(client: Any, scripted: Scripted) -> None:
    scripted.say(f"I look.\n{CALL}")
    fields = {"model": "tiny", "messages": ASK, "tools": [TOOL], "max_tokens": 200}
    answer = client.chat.completions.create(**fields)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert message.content == "I look." and answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments) == {"city": "São Paulo"}
    assert "The weather of a place" in scripted.prompt
    scripted.say("Sunny.")
    result = {"role": "tool", "tool_call_id": call.id, "content": "25 °C"}
    client.chat.completions.create(**{**fields, "messages": [*ASK, message.model_dump(), result]})
    assert f"I look.\n{CALL}<|end|><|user|>Result: 25 °C<|end|>" in scripted.prompt


def test_tool_calls_are_streamed_as_they_are_written(client: Any, scripted: Scripted) -> None:
    scripted.say(f"{CALL}\n{CALL}")
    with client.chat.completions.stream(
        model="tiny", messages=ASK, tools=[TOOL], max_tokens=200
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    pieces = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert len(pieces) > 4
    calls = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "São Paulo"}] * 2
    assert len({call.id for call in calls}) == 2
    one = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[TOOL], max_tokens=200, parallel_tool_calls=False
    )
    assert len(one.choices[0].message.tool_calls) == 1
    assert scripted.running.wait_until(lambda: scripted.running.gateway.inside == 0)


def test_a_call_that_must_be_made(client: Any, scripted: Scripted) -> None:
    import jsonschema

    scripted.say('{"name": "get_weather", "arguments": {"city": "Oslo"}}')
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        answer = client.chat.completions.create(
            model="tiny", messages=ASK, tools=[TOOL], tool_choice=choice, max_tokens=200
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.arguments == '{"city": "Oslo"}'
        assert scripted.prompt.endswith("<|assistant|><tool_call>\n")
        grammar = scripted.asked.grammar
        assert grammar is not None and grammar.kind == "json_schema"
        check = jsonschema.Draft202012Validator(json.loads(grammar.text))
        assert check.is_valid({"name": "get_weather", "arguments": {"city": "Oslo"}})
        assert not check.is_valid({"name": "get_weather", "arguments": {}})
    scripted.say("No.")
    none = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[TOOL], tool_choice="none", max_tokens=9
    )
    assert none.choices[0].message.content == "No." and "The weather" not in scripted.prompt


class Place(BaseModel):
    city: str
    degrees: int


def test_structured_output(client: Any, scripted: Scripted) -> None:
    scripted.say('{"city": "Oslo", "degrees": 3}')
    answer = client.chat.completions.parse(
        model="tiny", messages=ASK, response_format=Place, max_tokens=100
    )
    assert answer.choices[0].message.parsed == Place(city="Oslo", degrees=3)
    grammar = scripted.asked.grammar
    assert grammar is not None and json.loads(grammar.text)["required"] == ["city", "degrees"]
    client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=9, response_format={"type": "json_object"}
    )
    assert scripted.asked.grammar.text == '{"type": "object"}'  # type: ignore[union-attr]
    for fields, kind, text in (
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"structured_outputs": {"regex": "b+"}}, "regex", "b+"),
        ({"guided_choice": ["yes", 'n"o']}, "ebnf", 'root ::= "yes" | "n\\"o"'),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "ebnf", "root ::= x"),
        ({"guided_json": {"type": "null"}}, "json_schema", '{"type": "null"}'),
    ):
        client.chat.completions.create(model="tiny", messages=ASK, max_tokens=9, extra_body=fields)
        found = scripted.asked.grammar
        assert found is not None and (found.kind, found.text) == (kind, text)


def test_a_last_message_of_the_assistant_is_continued(client: Any, scripted: Scripted) -> None:
    scripted.say(" fine.")
    begun = [*ASK, {"role": "assistant", "content": "It is"}]
    answer = client.chat.completions.create(model="tiny", messages=begun, max_tokens=9)
    assert scripted.prompt.endswith("<|assistant|>It is")
    assert answer.choices[0].message.content == " fine."
    client.chat.completions.create(
        model="tiny", messages=begun, max_tokens=9, extra_body={"continue_final_message": False}
    )
    assert scripted.prompt.endswith("<|assistant|>It is<|end|><|assistant|>")
    client.chat.completions.create(
        **{"model": "tiny", "messages": ASK, "max_tokens": 9},
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert scripted.prompt.endswith("<think>\n\n</think>\n\n")


def test_responses(client: Any, scripted: Scripted) -> None:
    scripted.say(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}")
    tool = {"type": "function", **WEATHER}
    fields = {"model": "tiny", "input": ASK, "tools": [tool], "instructions": "Be brief."}
    answer = client.responses.create(**fields)
    assert answer.status == "completed" and answer.output_text == "I look."
    reasoning, _, call = answer.output
    assert reasoning.content[0].text == "Hm." and call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "São Paulo"}
    assert "<|system|>Be brief.<|end|>" in scripted.prompt
    with client.responses.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.delta" in kinds
    assert [item.type for item in final.output] == [item.type for item in answer.output]
    assert final.output_text == "I look." and final.usage == answer.usage
    scripted.say("Sunny.")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "25 °C"}
    rest = [item.model_dump(exclude_none=True) for item in answer.output]
    again = client.responses.create(**{**fields, "input": [*ASK, *rest, output]})
    assert again.output_text == "Sunny."
    assert f"I look.\n{CALL}<|end|><|user|>Result: 25 °C<|end|>" in scripted.prompt


def test_structured_responses_and_their_end(client: Any, scripted: Scripted) -> None:
    scripted.say('{"city": "Oslo", "degrees": 3}')
    parsed = client.responses.parse(model="tiny", input="Where?", text_format=Place)
    assert parsed.output_parsed == Place(city="Oslo", degrees=3)
    short = client.responses.create(model="tiny", input="Where?", max_output_tokens=2)
    assert short.status == "incomplete"
    assert short.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError, match="keeps nothing"):
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="store"):
        client.responses.create(model="tiny", input="x", store=True)


def test_errors_have_the_clients_types(client: Any, scripted: Scripted) -> None:
    chats = client.chat.completions
    with pytest.raises(openai.NotFoundError) as missing:
        chats.create(model="other", messages=ASK)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chats.create(model="tiny", messages=ASK, temperature=5)
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        client.embeddings.create(model="tiny", input="x")
    wrong = client.with_options(api_key="sk-wrong-wrong-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_a_stream_that_fails_raises(client: Any, scripted: Scripted) -> None:
    scripted.say("word " * 50)
    engine = scripted.running.engine
    engine.stalled = True
    for stream in (
        client.chat.completions.create(model="tiny", messages=ASK, stream=True),
        client.completions.create(model="tiny", prompt="a", stream=True),
    ):
        engine.fail("out of memory")
        engine.stalled = False
        with engine._changed:
            engine._changed.notify_all()
        with pytest.raises(openai.APIError, match="out of memory"):
            list(stream)
        engine.stalled = True
    engine.stalled = False


def test_timeouts(client: Any, scripted: Scripted) -> None:
    """A client that gives up leaves no place taken."""
    scripted.say("word " * 50)
    engine, gateway = scripted.running.engine, scripted.running.gateway
    engine.stalled = True
    hurried = client.with_options(timeout=0.2, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        hurried.chat.completions.create(model="tiny", messages=ASK)
    engine.stalled = False
    with engine._changed:
        engine._changed.notify_all()
    assert scripted.running.wait_until(lambda: gateway.inside == 0)


def test_a_full_server_is_tried_again(start: Start, chatting: Tokens) -> None:
    with start(contract=chatting, max_running=1, max_waiting=0) as running:
        engine, gateway = running.engine, running.gateway
        engine.stalled = True
        fields = {"model": "tiny", "messages": ASK, "max_tokens": 2}
        path = "/v1/chat/completions"
        first = threading.Thread(target=lambda: running.client.post(path, json=fields))
        first.start()
        assert running.wait_until(lambda: gateway.inside == 1)
        tries: list[int] = []

        def free(request: httpx.Request) -> None:
            tries.append(1)
            if len(tries) == 2:
                engine.stalled = False
                with engine._changed:
                    engine._changed.notify_all()
                first.join()

        with httpx.Client(trust_env=False, event_hooks={"request": [free]}) as http:
            patient = openai.OpenAI(
                api_key=API_KEY,
                base_url=f"{running.base_url}/v1",
                http_client=http,
                max_retries=2,
            )
            answer = patient.chat.completions.create(**fields)
        assert answer.usage.completion_tokens == 2 and len(tries) == 2


def test_the_asynchronous_client(scripted: Scripted) -> None:
    scripted.say("one two three")

    async def talk() -> list[str]:
        http = httpx.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(
            api_key=API_KEY, base_url=f"{scripted.running.base_url}/v1", http_client=http
        ) as opened:

            async def one() -> str:
                text = ""
                stream = await opened.chat.completions.create(
                    model="tiny", messages=ASK, max_tokens=20, stream=True
                )
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                return text

            return await asyncio.gather(*(one() for _ in range(8)))

    assert asyncio.run(talk()) == ["one two three"] * 8
