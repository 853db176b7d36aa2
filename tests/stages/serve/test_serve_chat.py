"""Chats over HTTP: the template's ids reach the engine, and answers come in OpenAI's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from tests.stages.serve.test_serve_http import read_events
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.model.hf_files import write_servable_files
from whorl.testing.models import tiny_shape

TEXT = "It adds 12 stones; 漢字 🎉.\nSTOP and more"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What <|end|> now?"},
    {"role": "assistant", "content": "A shell."},
    {"role": "user", "content": "And then?"},
]


@pytest.fixture(scope="module")
def server(start, tokens):  # type: ignore[no-untyped-def]
    ids = tokens.encode_prompt(TEXT)[1:]
    with start(reply=lambda request: ids[: request.max_tokens]) as running:
        yield running


def ask(server: Any, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": CHAT, **fields}
    answer: httpx.Response = server.client.post("/v1/chat/completions", json=body)
    return answer


def test_the_ids_are_those_of_training_and_of_transformers(  # type: ignore[no-untyped-def]
    server, tokens: Tokens, tmp_path: Path
) -> None:
    assert ask(server).status_code == 200
    request = server.engine.submitted[-1]
    assert list(request.prompt_ids) == tokens.encode_chat({"messages": CHAT}, ask=True)[0].tolist()
    answered = [*CHAT, {"role": "assistant", "content": "It turns."}]
    trained, mask = tokens.encode_chat({"messages": answered})
    count = len(request.prompt_ids)
    assert trained[:count].tolist() == list(request.prompt_ids) and mask[count:].all()
    # Without special texts in messages transformers gives the same.
    write_servable_files(tmp_path, tiny_shape(), tokens)
    plain = [{**message, "content": message["content"].replace("<", "")} for message in CHAT]
    ask(server, messages=plain)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        plain, add_generation_prompt=True, return_dict=False
    )
    assert list(server.engine.submitted[-1].prompt_ids) == theirs


def test_whole_and_streamed_answers(server, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    answer = ask(server, max_tokens=200).json()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion" and answer["usage"]["prompt_tokens"] > 10
    assert choice["message"] == {"role": "assistant", "content": TEXT}
    assert choice["finish_reason"] == "stop"
    events = read_events(ask(server, max_tokens=200, stream=True))
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_without_a_limit_there_is_room_for_all(server) -> None:  # type: ignore[no-untyped-def]
    ask(server)
    request = server.engine.submitted[-1]
    assert request.max_tokens == 256 - len(request.prompt_ids)


def test_what_the_template_refuses_is_told(server) -> None:  # type: ignore[no-untyped-def]
    answer = ask(server, messages=[{"role": "robot", "content": "x"}])
    assert answer.status_code == 400 and "there is no role robot" in answer.text
    assert answer.json()["error"]["param"] == "messages"


def test_rules_of_the_contract_hold(start, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    """Stop strings end answers; without a template there are no chats."""
    rules = OWN_RULES.model_copy(update={"stop_strings": ("STOP",), "chat_template": None})
    other = Tokens.build(tokens.codecs, 512, rules)
    ids = tokens.encode_prompt(TEXT)[1:]
    with start(contract=other, reply=lambda request: ids) as running:
        answer = json.loads(running.complete(max_tokens=100).text)
        assert answer["choices"][0]["text"] == TEXT.partition("STOP")[0]
        assert "no chat template" in ask(running).text
