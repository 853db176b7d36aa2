"""Requests in the manner of other servers' own tests: forms, limits, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stages.serve.conftest import Start
from tests.stages.serve.dialects.conftest import CALL, WEATHER, Scripted
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": WEATHER}


def events_of(response: httpx.Response) -> list[tuple[str | None, Any]]:
    """(name, data) of each event of a stream, read by hand."""
    found: list[tuple[str | None, Any]] = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = lines["data"]
        found.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


def test_every_answer_of_a_stream_ends_once(scripted: Scripted) -> None:
    scripted.say("a b", "c", "d e f")
    response = scripted.post(CHAT, messages=ASK, n=3, stream=True, max_tokens=30)
    *events, (_, done) = events_of(response)
    assert done == "[DONE]" and len({data["id"] for _, data in events}) == 1
    texts, ends = ["", "", ""], [0, 0, 0]
    for _, data in events:
        (choice,) = data["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        ends[choice["index"]] += choice["finish_reason"] == "stop"
    assert texts == ["a b", "c", "d e f"] and ends == [1, 1, 1]


def test_every_answer_has_its_own_stop(scripted: Scripted) -> None:
    scripted.say("a STOP b", "c d")
    gateway = scripted.running.gateway
    choices = scripted.post(COMPLETIONS, prompt="x", n=2, stop="STOP", max_tokens=30).json()[
        "choices"
    ]
    assert [choice["text"] for choice in choices] == ["a ", "c d"]
    assert scripted.running.wait_until(lambda: gateway.inside == 0)


def test_log_probabilities_stop_where_the_text_does(scripted: Scripted) -> None:
    scripted.say("one two STOP three")
    fields = {"prompt": "x", "stop": "STOP", "max_tokens": 30, "logprobs": 1}
    (choice,) = scripted.post(COMPLETIONS, **fields).json()["choices"]
    told = choice["logprobs"]
    assert choice["text"] == "one two " and "one two ".startswith("".join(told["tokens"]))
    assert "".join(told["tokens"]).strip() == "one two"
    offsets = [len("".join(told["tokens"][:at])) for at in range(len(told["tokens"]))]
    assert told["text_offset"] == offsets
    streamed = events_of(scripted.post(COMPLETIONS, **fields, stream=True))[:-1]
    pieces = [data["choices"][0]["logprobs"]["tokens"] for _, data in streamed]
    assert [token for piece in pieces for token in piece] == told["tokens"]
    # alternatives, and the token itself
    assert all(1 <= len(each) <= 2 for each in told["top_logprobs"])


def test_stop_ids_of_the_asker(scripted: Scripted) -> None:
    scripted.say("one two three")
    number = scripted.tokens.encode_prompt("one two three")[2]
    scripted.post(COMPLETIONS, prompt="x", stop_token_ids=[number], max_tokens=30)
    assert number in scripted.asked.stop_ids
    assert set(scripted.tokens.contract.stop_ids) < set(scripted.asked.stop_ids)
    refused = scripted.post(COMPLETIONS, prompt="x", stop_token_ids=[5000])
    assert refused.json()["error"]["param"] == "stop_token_ids"


@pytest.mark.parametrize("text", ["Hi there", "", "漢字 🎉", "<|end|>"])
def test_texts_become_ids_and_come_back(scripted: Scripted, text: str) -> None:
    found = scripted.post("/tokenize", prompt=text, add_special_tokens=False).json()
    back = scripted.post("/detokenize", tokens=found["tokens"]).json()
    assert back["prompt"] == text and found["count"] == len(found["tokens"])
    marked = scripted.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert marked["tokens"] == [*scripted.tokens.contract.start_ids, *found["tokens"]]
    assert marked["token_strs"][0] == "<|bos|>" and marked["max_model_len"] == 2048


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (CHAT, {"messages": ASK, "n": 90}, "n", "81|80"),
        (CHAT, {"messages": ASK, "guided_regex": "a", "guided_json": {}}, "guided_regex", "one of"),
        (CHAT, {"messages": ASK, "guided_regex": "a" * 5000}, "guided_regex", "4,096"),
        (CHAT, {"messages": ASK, "guided_grammar": ""}, "guided_grammar", "empty"),
        (
            CHAT,
            {"messages": ASK, "tools": [TOOL], "response_format": {"type": "json_object"}},
            "response_format",
            "beside tools",
        ),
        (COMPLETIONS, {"prompt": ["x"] * 81}, "prompt", "80"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"512": 1}}, "logit_bias", "512"),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        (COMPLETIONS, {"prompt": "x", "echo": True}, "echo", "not supported"),
        ("/v1/responses", {"input": "x", "conversation": "c"}, "conversation", "keeps nothing"),
        ("/v1/responses", {"input": "x", "background": True}, "background", "only false"),
        ("/v1/responses", {"input": [{"type": "item_reference"}]}, "input[0].type", "reference"),
        ("/v1/responses", {"input": [{"role": "x", "content": ""}]}, "input[0].role", "user"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools", "functions"),
        ("/v1/responses", {"input": []}, "input", "expected"),
        ("/tokenize", {}, "prompt", "one of them"),
        ("/tokenize", {"prompt": "x", "messages": ASK}, "prompt", "one of them"),
        ("/detokenize", {"tokens": [512]}, "tokens", "512"),
        ("/v1/embeddings", {"input": "x"}, "model", "no embeddings"),
    ],
)
def test_refusals(scripted: Scripted, path: str, fields: Any, param: str, words: str) -> None:
    response = scripted.post(path, **fields)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param, error
    assert any(word in error["message"] for word in words.split("|")), error
    assert scripted.running.gateway.inside == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": ASK, "max_tokens": 0}, "max_tokens"),
        ({"messages": ASK, "stop_sequences": [""]}, "stop_sequences"),
        ({"messages": ASK, "tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"messages": ASK, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"messages": ASK, "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"messages": ASK, "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": ASK, "top_k": -1}, "top_k"),
        ({"messages": ASK, "mcp_servers": []}, "mcp_servers"),
        ({"messages": ASK, "temprature": 1}, "did you mean temperature?"),
    ],
)
def test_refusals_in_anthropics_form(scripted: Scripted, fields: Any, words: str) -> None:
    response = scripted.post("/v1/messages", **{"max_tokens": 9, **fields})
    answer = response.json()
    assert response.status_code == 400 and answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert words in answer["error"]["message"], answer


def test_an_empty_and_a_short_answer_of_responses(scripted: Scripted) -> None:
    scripted.say("")
    events = events_of(scripted.post("/v1/responses", input="x", stream=True))
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(name == data["type"] for name, data in events)
    (item,) = events[-1][1]["response"]["output"]
    assert item["content"][0]["text"] == "" and item["status"] == "completed"
    scripted.say(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}")
    tool = {"type": "function", **WEATHER}
    for limit in (3, 12, 25, 40):
        fields = {"input": "x", "tools": [tool], "max_output_tokens": limit}
        whole = scripted.post("/v1/responses", **fields).json()
        events = events_of(scripted.post("/v1/responses", **fields, stream=True))
        last = events[-1][1]["response"]
        kinds = [(item["type"], item["status"]) for item in last["output"]]
        assert kinds == [(item["type"], item["status"]) for item in whole["output"]]
        assert whole["status"] == last["status"] == "incomplete"
        opened = sum(name == "response.output_item.added" for name, _ in events)
        assert opened == sum(name == "response.output_item.done" for name, _ in events)


def test_a_failed_streams_last_event_is_numbered_on(scripted: Scripted) -> None:
    """With nothing said before it, and with something."""
    scripted.say("I look. " * 40)
    engine, sent = scripted.running.engine, []
    for is_begun in (False, True):
        engine.stalled = not is_begun
        engine.step_s = 0.02 if is_begun else 0.0

        def ask() -> None:
            sent.append(scripted.post("/v1/responses", input="x", stream=True))

        before, thread = len(engine.submitted), threading.Thread(target=ask)
        thread.start()
        assert scripted.running.wait_until(lambda n=before: len(engine.submitted) > n)
        if is_begun:
            time.sleep(0.1)
        engine.fail("out of memory")
        engine.stalled = False
        with engine._changed:
            engine._changed.notify_all()
        thread.join()
    engine.step_s = 0.0
    lengths = []
    for response in sent:
        events = events_of(response)
        assert events[-1][0] == "error" and events[-1][1]["code"] == "engine_failed"
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        lengths.append(len(events))
    assert lengths[0] == 3 and lengths[1] > 4


def test_what_the_engine_cannot_do_is_refused_by_name(start: Start, chatting: Tokens) -> None:
    """And by that of the engine, before anything is submitted."""
    with start(contract=chatting) as running:
        engine = running.engine
        engine.unable = frozenset({"grammar", "min_p", "logprobs>1", "presence_penalty"})
        choice = {"type": "any"}
        tool = {"name": "f", "input_schema": {"type": "object"}}
        for path, fields, param in (
            (CHAT, {"messages": ASK, "response_format": {"type": "json_object"}}, "response_form"),
            (CHAT, {"messages": ASK, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
            (CHAT, {"messages": ASK, "min_p": 0.1}, "min_p"),
            (CHAT, {"messages": ASK, "logprobs": True, "top_logprobs": 2}, "top_logprobs"),
            (COMPLETIONS, {"prompt": "x", "logprobs": 2}, "logprobs"),
            (COMPLETIONS, {"prompt": "x", "presence_penalty": 1}, "presence_penalty"),
            ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_object"}}}, "text"),
            (
                "/v1/messages",
                {"messages": ASK, "max_tokens": 9, "tools": [tool], "tool_choice": choice},
                "tool_choice",
            ),
        ):
            response = running.client.post(path, json={"model": "tiny", **fields})
            message = response.json()["error"]["message"]
            assert response.status_code == 400 and message.startswith(param), message
            assert "the engine fake cannot" in message
        assert engine.submitted == [] and running.gateway.inside == 0
        for path, fields in (
            (CHAT, {"messages": ASK, "logprobs": True, "top_logprobs": 1, "min_p": 0}),
            (COMPLETIONS, {"prompt": "x", "logprobs": 1, "response_format": {"type": "text"}}),
        ):
            assert running.client.post(path, json={"model": "tiny", **fields}).status_code == 200


def test_a_grammar_that_is_none_is_the_askers_mistake(scripted: Scripted) -> None:
    scripted.say("x" * 30)
    engine = scripted.running.engine
    engine.stalled = True
    sent = []

    def ask() -> None:
        sent.append(scripted.post(CHAT, messages=ASK, guided_regex="("))

    thread = threading.Thread(target=ask)
    before = len(engine.submitted)
    thread.start()
    assert scripted.running.wait_until(lambda: len(engine.submitted) > before)
    engine.fail("this regex cannot be used (found the parenthesis is not closed)")
    engine.stalled = False
    with engine._changed:
        engine._changed.notify_all()
    thread.join()
    (response,) = sent
    assert response.status_code == 400 and "parenthesis" in response.text
    assert scripted.running.client.get("/health").status_code == 200


def test_an_engine_that_takes_no_such_grammar(scripted: Scripted, monkeypatch: Any) -> None:
    """Nor is it unwell because of it, and no place stays taken."""
    engine = scripted.running.engine

    def refuse(request: GenerateRequest, on_event: Any) -> None:
        raise EngineError("this regex cannot be used", found="(")

    monkeypatch.setattr(engine, "submit", refuse)
    response = scripted.post(CHAT, messages=ASK, guided_regex="(")
    assert response.status_code == 400 and response.json()["error"]["param"] == "guided_regex"
    assert scripted.running.gateway.inside == 0
    monkeypatch.undo()
    assert scripted.running.client.get("/health").status_code == 200


def test_a_template_without_tools_shows_none(start: Start, tokens: Tokens) -> None:
    with start() as running:
        response = running.client.post(
            CHAT, json={"model": "tiny", "messages": ASK, "tools": [TOOL]}
        )
        assert response.status_code == 400 and "shows no tools" in response.text
        (model,) = running.client.get("/v1/models").json()["data"]
        assert model["tool_calls"] is None and model["reasoning"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_keeps_what_its_reader_saw(
    start: Start, chatting: Tokens, tmp_path: Path, stream: bool
) -> None:
    """Whoever rates an answer good means neither its thoughts nor the marks of its calls."""
    with start(contract=chatting, context_tokens=2048, home=tmp_path, log_text=True) as running:
        scripted = Scripted(running, chatting)
        for said in ("<think>\nHm.\n</think>\n\nYes.", "No.", f"I look.{CALL}"):
            scripted.say(said)
            fields = {"messages": ASK, "tools": [TOOL], "max_tokens": 200, "stream": stream}
            assert scripted.post(CHAT, **fields).status_code == 200
        scripted.say("one", "<think> two")
        scripted.post(COMPLETIONS, prompt="x", n=2, max_tokens=30)
        log = tmp_path / ".serving" / "answers.jsonl"
        assert running.wait_until(lambda: log.read_text().count("\n") == 4)
    texts = [json.loads(line)["texts"] for line in log.read_text().splitlines()]
    assert texts == [["Yes."], ["No."], [None], ["one", "<think> two"]]


def test_thoughts_that_the_prompt_begins(start: Start, tokens: Tokens) -> None:
    """They are thoughts from the first word; where an answer must have a form there are none."""
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{{ tools }}<|assistant|><think>\n{# </think> <tool_call> #}"
    )
    rules = OWN_RULES.model_copy(update={"chat_template": template})
    contract = Tokens.build(tokens.codecs, 512, rules)

    def reply(request: GenerateRequest) -> list[int]:
        return contract.encode_prompt("Hm.\n</think>\n\nYes.")[1:]

    with start(contract=contract, reply=reply, context_tokens=1024) as running:
        body = {"model": "tiny", "messages": ASK, "max_tokens": 50}
        message = running.client.post(CHAT, json=body).json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
        for fields, end in (
            ({"guided_regex": "a"}, "<think>\n</think>\n\n"),
            ({"tools": [TOOL], "tool_choice": "required"}, "<think>\n</think>\n\n<tool_call>\n"),
        ):
            running.client.post(CHAT, json=body | fields)
            prompt = contract.decode(running.engine.submitted[-1].prompt_ids, skip_special=False)
            assert prompt.endswith(end)
