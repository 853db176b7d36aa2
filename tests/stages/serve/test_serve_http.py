"""Completions over HTTP: what is answered, to the token."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import RecordError, SpecError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.testing.engine import FakeEngine

TEXT = "The shell adds 12 stones; naïve 漢字 and 🎉🎉 by the sea.\nEND of it."


def read_events(response: httpx.Response) -> list[Any]:
    """The events of a stream, by hand: lines `data: …`, each followed by an empty one."""
    lines = response.content.decode().split("\n")
    assert lines[1::2] == [""] * (len(lines) // 2) and lines[-1] == ""
    data = [line.removeprefix("data: ") for line in lines[:-1:2]]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


@pytest.fixture(scope="module")
def server(start, tokens):  # type: ignore[no-untyped-def]
    ids = tokens.encode_prompt(TEXT)[1:]
    with start(reply=lambda request: ids[: request.max_tokens]) as running:
        yield running


def test_a_completion_whole_and_streamed(server, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    whole = server.complete(max_tokens=200, temperature=0, seed=7)
    assert whole.status_code == 200
    answer = whole.json()
    num_tokens = len(tokens.encode_prompt(TEXT)) - 1
    assert answer["object"] == "text_completion" and answer["model"] == "tiny"
    assert answer["choices"] == [
        {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    ]
    prompt_tokens = len(tokens.encode_prompt("a shell"))
    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": prompt_tokens + num_tokens,
    }
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = server.complete(max_tokens=200, **usage)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *events, last = read_events(streamed)
    assert "".join(event["choices"][0]["text"] for event in events) == TEXT
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == [] and last["usage"] == answer["usage"]
    assert "usage" not in read_events(server.complete(stream=True))[0]


def test_what_reaches_the_engine(server, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    server.complete(prompt="a shell", temperature=0.3, top_p=0.5, seed=11, max_tokens=3)
    request = server.engine.submitted[-1]
    assert request.prompt_ids == tuple(tokens.encode_prompt("a shell"))
    assert (request.temperature, request.top_p, request.seed) == (0.3, 0.5, 11)
    assert (request.max_tokens, set(request.stop_ids)) == (3, set(tokens.contract.stop_ids))
    server.complete(prompt=[[0, 20, 21]])
    assert server.engine.submitted[-1].prompt_ids == (0, 20, 21)
    seeds = {server.engine.submitted[-1].seed}
    for _ in range(3):
        server.complete(prompt=[0, 20])
        seeds.add(server.engine.submitted[-1].seed)
    assert len(seeds) == 4  # none given: another one each time


def test_no_piece_holds_half_a_character(server, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    events = read_events(server.complete(max_tokens=200, stream=True))
    texts = [event["choices"][0]["text"] for event in events]
    assert "".join(texts) == TEXT
    assert not any("\ufffd" in text for text in texts)
    assert any(len(tokens.encode_prompt(text)) - 1 > 1 for text in texts)  # some were held back


@pytest.mark.parametrize("stop", ["END", ["\nEND", "never"], "🎉 by", ["stones; na", "x"]])
def test_stop_strings_across_tokens(server, stop: Any) -> None:  # type: ignore[no-untyped-def]
    stops = [stop] if isinstance(stop, str) else stop
    expected = TEXT[: min(TEXT.find(s) for s in stops if s in TEXT)]
    before = len(server.engine.cancelled_ids)
    whole = server.complete(max_tokens=200, stop=stop).json()["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (expected, "stop")
    events = read_events(server.complete(max_tokens=200, stop=stop, stream=True))
    assert "".join(event["choices"][0]["text"] for event in events) == expected
    assert len(server.engine.cancelled_ids) == before + 2
    assert server.wait_until(lambda: server.gateway.inside == 0)


def test_length_is_a_reason_to_end(server) -> None:  # type: ignore[no-untyped-def]
    choice = server.complete(max_tokens=2).json()["choices"][0]
    assert choice["finish_reason"] == "length"


def test_models_tell_what_is_served(server, tokens: Tokens) -> None:  # type: ignore[no-untyped-def]
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["object"] == "model"
    assert model["context_length"] == 256
    assert model["contract_digest"] == tokens.contract.digest
    assert model["lineage"] == {"train": "ab" * 16}
    assert model["quality"][0]["value"] == 1.5
    assert model["sampling"] == {"temperature": 0.7, "top_p": 0.95, "seed": 0}


def test_one_model_is_told_by_its_id(server) -> None:  # type: ignore[no-untyped-def]
    (model,) = server.client.get("/v1/models").json()["data"]
    assert server.client.get("/v1/models/tiny").json() == model
    for other in ("", "Tiny", "tiny/", "tiny/x", "%00", "%ff", "a%20b", "x" * 3000):
        response = server.client.get(f"/v1/models/{other}")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (404, "model_not_found")
        assert "'tiny'" in error["message"] and len(error["message"]) < 500


@pytest.mark.parametrize("name", ["my model é", "a%2Fb", "模型", "notes@1", "?&#"])
def test_any_id_a_folder_can_have_is_found(tokens: Tokens, name: str) -> None:
    digest = tokens.contract.digest
    engine, key = FakeEngine(digest), "k" * 16
    card = ModelCard(name=name, contract_digest=digest, context_tokens=64)
    app = create_app(engine, tokens, card, ServeConfig(), key)

    async def ask() -> tuple[Any, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            told = await client.get(f"/v1/models/{quote(name, safe='')}")
            body = {"model": name, "prompt": "a", "max_tokens": 1}
            return told.json(), (await client.post("/v1/completions", json=body)).json()

    told, answer = asyncio.run(ask())
    engine.close()
    assert told["id"] == answer["model"] == name


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "other"}, 404, "model", ["other", "tiny"]),
        ({"max_tokens": 513}, 400, "max_tokens", ["512"]),
        ({"max_tokens": 10**30}, 400, "max_tokens", ["512"]),
        ({"prompt": [20] * 250, "max_tokens": 8}, 400, "prompt", ["256", "250", "at most 6"]),
        ({"prompt": [20] * 256, "max_tokens": 1}, 400, "prompt", ["256", "shorten"]),
        ({"prompt": "word " * 2000}, 400, "prompt", ["256"]),
        ({"prompt": [5, 512]}, 400, "prompt", ["512"]),
        ({"prompt": "x" * 300_000}, 413, None, ["262,144"]),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", []),
        ({"chat_template": "{{ 1 }}"}, 400, "chat_template", ["chat_template"]),
    ],
)
def test_refusals_name_the_limit(server, fields, status, param, words) -> None:  # type: ignore[no-untyped-def]
    response = server.complete(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert all(word in error["message"] for word in words)
    assert server.gateway.inside == 0


def test_a_prompt_that_just_fits_is_taken(server) -> None:  # type: ignore[no-untyped-def]
    assert server.complete(prompt=[20] * 248, max_tokens=8).status_code == 200


def test_other_routes_and_methods(server) -> None:  # type: ignore[no-untyped-def]
    for method, path, status in (
        ("GET", "/v1/completions", 405),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/studio.js/..%2f..%2fpyproject.toml", 404),
    ):
        response = server.client.request(method, path)
        assert (response.status_code, method, path) == (status, method, path)
        assert "there is no" in response.json()["error"]["message"] or status == 405
    for path in ("/chat/completions", "/v1/v1/models", "/v1/embedding"):
        missing = server.client.post(path, json={}).json()["error"]["message"]
        assert "/v1/chat/completions" in missing


def test_another_contract_is_refused(tokens: Tokens) -> None:
    digest = tokens.contract.digest
    for engine_digest, card_digest in ((digest, "0" * 64), ("0" * 64, digest)):
        engine = FakeEngine(engine_digest)
        card = ModelCard(name="tiny", contract_digest=card_digest, context_tokens=64)
        with pytest.raises(RecordError, match="another token contract"):
            create_app(engine, tokens, card, ServeConfig(), None)
        engine.close()


def test_a_weak_key_is_refused_and_not_shown(tokens: Tokens) -> None:
    engine = FakeEngine(tokens.contract.digest)
    card = ModelCard(name="tiny", contract_digest=tokens.contract.digest, context_tokens=64)
    for key in ("short", "with a space in it", "ключ-ключ-ключ-ключ", ""):
        with pytest.raises(SpecError) as caught:
            create_app(engine, tokens, card, ServeConfig(), key)
        assert not key or key not in str(caught.value)
    engine.close()
