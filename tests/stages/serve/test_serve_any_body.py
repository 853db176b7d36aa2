"""Any body at all, to the application itself: answered, or refused in OpenAI's form, by name."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whorl.codecs.contract import Tokens
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RAW = ("Input should", "Value error", "validation error", "Extra inputs", "pydantic", "Traceback")


@pytest.fixture(scope="module")
def app(mixed: Tokens) -> Iterator[Any]:
    digest = mixed.contract.digest
    engine = FakeEngine(digest, vocab_size=320)
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=64)
    yield create_app(engine, mixed, card, ServeConfig(max_tokens=16, max_body_bytes=5_000), KEY)
    engine.close()


def post(app: Any, path: str, data: bytes, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            keyed = {"Authorization": f"Bearer {KEY}", **headers}
            return await client.post(path, content=data, headers=keyed)

    return asyncio.run(send())


def check_error(error: Any) -> str:
    """The message of an error in OpenAI's form."""
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["message"], str) and len(error["message"]) <= 400
    assert isinstance(error["type"], str) and isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert not any(word in error["message"] for word in RAW), error["message"]
    return str(error["message"])


def check(response: httpx.Response) -> bool:
    """Whether it was answered; never a defect, and always in a form that clients read."""
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert response.json().keys() == {"error"}
        check_error(response.json()["error"])
        return False
    if not response.headers["content-type"].startswith("text/event-stream"):
        assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")
        return True
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]", response.text
    assert all("choices" in json.loads(event.removeprefix("data: ")) for event in events[:-1])
    return True


texts = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates among them
numbers = (
    st.integers() | st.floats() | st.sampled_from([1e-300, 5e-324, 1e308, -0.0, 2**63, 10**400])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
coded = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
parts = st.fixed_dictionaries(
    {"codec": st.sampled_from(["text", "image", "label", "special", "none"]) | texts},
    optional={"text": texts | st.sampled_from(["<|answer|>", "cat"]), "data": coded | texts},
)
ids = st.lists(st.integers(-1, 330), max_size=5)
roles = st.sampled_from(["user", "assistant", "system", "tool", "developer", ""]) | texts
text_parts = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": texts})
messages = st.fixed_dictionaries(
    {}, optional={"role": roles, "content": texts | st.lists(text_parts | anything, max_size=3)}
)
# What a client may mean; every field is anything else, too.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(-1, 20),
    "temperature": st.floats(0, 2) | st.sampled_from([0, 1e-300, 2, 2.1, -0.1]),
    "top_p": st.floats(0, 1) | st.sampled_from([1e-300, 1, 1.1]),
    "seed": st.integers(0, 2**63 - 1) | st.sampled_from([-1, 2**63]),
    "stop": texts | st.lists(texts, max_size=5),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "n": st.sampled_from([1, 2]),
    "user": texts,
    "metadata": st.dictionaries(texts, texts, max_size=2),
    "store": st.booleans(),
    "logit_bias": st.sampled_from([{}, {"5": 1}]),
    "logprobs": st.sampled_from([False, True, 5]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    "tools": st.lists(anything, max_size=2),
    "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "max_completion_tokens": st.integers(-1, 20),
    "allowed_token_ids": ids,
    "answer_codec": st.sampled_from(["text", "label", "none"]),
}


def mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, odd]).flatmap(lambda chosen: chosen)


def bodies(
    subject: str, good: st.SearchStrategy[Any], likely: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """A good body with a few fields more, or anything."""

    def some(name: str) -> st.SearchStrategy[tuple[str, Any]]:
        return st.tuples(st.just(name), mostly(LIKELY[name], anything))

    asked = st.fixed_dictionaries({"model": st.just("tiny"), subject: mostly(good, likely)})
    fields = st.lists(st.sampled_from(sorted(LIKELY)).flatmap(some), max_size=3).map(dict)
    near = st.tuples(asked, fields).map(lambda both: {**both[0], **both[1]})
    wrong = {"model": anything, subject: likely | anything}
    all_of_it = {name: value | anything for name, value in LIKELY.items()}
    return mostly(near, st.fixed_dictionaries(wrong, optional=all_of_it))


def is_taken(body: dict[str, Any], name: str, *values: object) -> bool:
    """Whether a field has one of the values that change nothing. true is not 1."""
    given = body.get(name)
    return given is None or any(
        given == value and isinstance(given, bool) == isinstance(value, bool) for value in values
    )


def check_nothing_was_ignored(
    app: Any, body: dict[str, Any], path: str, response: httpx.Response
) -> None:
    """What an answered body asked for was done, or handed to the engine."""
    asked = app.state.gateway.engine.submitted[-1]
    wanted = body.get("response_format") or {"type": "text"}
    assert (asked.grammar is None) == (wanted == {"type": "text"})
    assert dict(asked.logit_bias) == {int(k): v for k, v in (body.get("logit_bias") or {}).items()}
    if not body.get("stream"):
        choices = response.json()["choices"]
        assert len(choices) >= (body.get("n") or 1)
        told = body.get("logprobs") not in (None, False)
        assert all((choice["logprobs"] is not None) == told for choice in choices)
    if path == COMPLETIONS:
        assert is_taken(body, "tools") and is_taken(body, "max_completion_tokens")
        assert is_taken(body, "tool_choice")
    else:
        assert is_taken(body, "tool_choice", "auto", "none")
        assert is_taken(body, "allowed_token_ids") and is_taken(body, "answer_codec")


@given(
    bodies(
        "prompt",
        st.text(max_size=12) | st.lists(st.integers(0, 319), min_size=1, max_size=5),
        texts | ids | st.lists(texts, max_size=2) | st.lists(parts, max_size=3),
    )
)
@example({"model": "tiny", "prompt": "", "temperature": 1e-300, "top_p": 5e-324, "stop": ""})
@example({"model": "tiny", "prompt": "\x00" * 60, "max_tokens": 1})
@example({"model": "tiny", "prompt": [], "user": "me"})
def test_completions(app: Any, body: dict[str, Any]) -> None:
    response = post(app, COMPLETIONS, json.dumps(body).encode())
    if check(response):
        check_nothing_was_ignored(app, body, COMPLETIONS, response)
    assert app.state.gateway.inside == 0


@given(bodies("messages", st.just([{"role": "user", "content": "Hi"}]), st.lists(messages)))
@example({"model": "tiny", "messages": [{"role": "user", "content": ""}], "n": 1})
@example({"model": "tiny", "messages": [{"role": "robot", "content": "x"}]})
@example({"model": "tiny", "messages": [{"role": "assistant", "content": None}]})
def test_chats(app: Any, body: dict[str, Any]) -> None:
    response = post(app, CHAT, json.dumps(body).encode())
    if check(response):
        check_nothing_was_ignored(app, body, CHAT, response)
    assert app.state.gateway.inside == 0


@given(
    st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()), st.booleans()
)
@example(b"[" * 4_000, True)
@example(b'{"model": "tiny", "messages": ' + b"[" * 400 + b"]" * 400 + b"}", True)
@example(b'{"model": "tiny", "prompt": NaN}', False)
@example(b'{"model": "tiny", "prompt": "a", "prompt": "b"}', False)
@example(b"x" * 5_001, False)
def test_what_is_no_request(app: Any, data: bytes, to_chat: bool) -> None:
    assert not check(post(app, CHAT if to_chat else COMPLETIONS, data))


@pytest.mark.parametrize(
    ("headers", "status", "word"),
    [
        ({"Content-Encoding": "gzip"}, 415, "uncompressed"),
        ({"Content-Length": "many"}, 400, "Content-Length"),
        ({"Content-Length": "9" * 5_000}, 413, "limit"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 200, ""),
    ],
)
def test_headers_of_a_body(app: Any, headers: dict[str, str], status: int, word: str) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
    response = post(app, COMPLETIONS, json.dumps(body).encode(), **headers)
    assert response.status_code == status and word in response.text
    check(response)


def test_a_model_that_begins_with_nothing_needs_a_token(start: Any, tokens: Tokens) -> None:
    from whorl.codecs.contract import OWN_RULES

    rules = OWN_RULES.model_copy(update={"start_ids": (), "chat_template": "{{ '' }}"})
    with start(contract=Tokens.build(tokens.codecs, 512, rules)) as running:
        empty = running.complete(prompt="")
        assert empty.status_code == 400 and empty.json()["error"]["param"] == "prompt"
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
        answer = running.client.post(CHAT, json=chat)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
        assert running.complete(prompt="a").status_code == 200
