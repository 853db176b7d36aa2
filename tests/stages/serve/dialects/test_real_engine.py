"""From an HTTP request to a real engine and back: a tiny model, as untrained as can be."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.stages.serve.dialects.conftest import WEATHER
from whorl.codecs.contract import Tokens
from whorl.engines.open import open_engine
from whorl.model.folder import read_card
from whorl.model.hf import save_model_folder
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.token_texts import token_text
from whorl.testing.models import tiny_model, tiny_shape

pytest.importorskip("xgrammar")
KEY = "k" * 16
ASK = [{"role": "user", "content": "Hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def app(chatting: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("tiny") / "model"
    shape = tiny_shape(max_seq_len=1024)
    save_model_folder(folder, tiny_model(shape).state_dict(), shape, chatting, {"train": "0" * 32})
    engine = open_engine(folder, name="torch")
    digest = read_card(folder).contract_digest
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=1024)
    yield create_app(engine, chatting, card, ServeConfig(), KEY)
    engine.close()


def post(app: Any, path: str, **fields: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            return await client.post(path, json={"model": "tiny", **fields})

    return asyncio.run(send())


def test_answers_follow_a_pattern_and_a_choice(app: Any) -> None:
    pattern = "[ab]{3}-[0-9]{2}"
    answer = post(app, CHAT, messages=ASK, guided_regex=pattern, n=3, seed=1, max_tokens=30).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert all(re.fullmatch(pattern, text) for text in texts) and len(set(texts)) > 1
    again = post(app, CHAT, messages=ASK, guided_regex=pattern, n=3, seed=1, max_tokens=30).json()
    assert [choice["message"]["content"] for choice in again["choices"]] == texts
    wish = {"choice": ["yes", "no, never"]}
    answer = post(app, COMPLETIONS, prompt="a", structured_outputs=wish, max_tokens=30).json()
    assert answer["choices"][0]["text"] in wish["choice"]


def test_a_forced_call_follows_the_functions_schema(app: Any) -> None:
    kinds = {"type": "object", "properties": {"kind": {"enum": ["warm", "cold"]}}}
    function = {**WEATHER, "parameters": {**kinds, "required": ["kind"]}}
    function["parameters"]["additionalProperties"] = False  # type: ignore[index]
    tools = [{"type": "function", "function": function}]
    tokens = app.state.gateway.tokens
    spaces = [i for i in range(16, 400) if not tokens.decode((i,), False).strip()]
    fields: dict[str, Any] = {"tools": tools, "tool_choice": "required", "max_tokens": 120}
    fields["logit_bias"] = {str(i): -100 for i in spaces}  # or it would write them for ever
    (choice,) = post(app, CHAT, messages=ASK, **fields).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert call["function"]["name"] == "get_weather"
    jsonschema.validate(json.loads(call["function"]["arguments"]), function["parameters"])


def test_a_grammar_that_is_none(app: Any) -> None:
    for fields in ({"guided_regex": "("}, {"guided_grammar": "root := ("}):
        response = post(app, CHAT, messages=ASK, **fields)
        error = response.json()["error"]
        assert response.status_code == 400 and error["code"] == "invalid_grammar", error
        assert error["param"] == next(iter(fields))


def test_log_probabilities_are_those_that_the_engine_scores(app: Any) -> None:
    engine, tokens = app.state.gateway.engine, app.state.gateway.tokens
    prompt = tokens.encode_prompt("a shell")
    fields = {"prompt": prompt, "temperature": 0, "max_tokens": 6, "logprobs": 3}
    (choice,) = post(app, COMPLETIONS, **fields).json()["choices"]
    told = choice["logprobs"]
    top = told["top_logprobs"][0]
    same_text = [i for i in range(512) if token_text(tokens, i) == told["tokens"][0]]
    scores = engine.score([[i] for i in same_text], prefix=prompt)
    given = told["token_logprobs"][0]
    assert any(math.isclose(given, score[0], abs_tol=1e-3) for score in scores)
    assert max(top.values()) == given  # greedy


def test_sampling_fields_reach_the_model(app: Any) -> None:
    tokens = app.state.gateway.tokens
    prompt = tokens.encode_prompt("a shell")
    clear = {token_text(tokens, i): i for i in range(16, 400) if token_text(tokens, i).isalnum()}

    def first(**fields: Any) -> list[str]:
        given = {"prompt": prompt, "max_tokens": 1, "logprobs": 1, "ignore_eos": True, **fields}
        given["allowed_token_ids"] = list(clear.values())
        choices = post(app, COMPLETIONS, **given).json()["choices"]
        return [choice["logprobs"]["tokens"][0] for choice in choices]

    (best,) = first(temperature=0)
    assert set(first(temperature=1, top_k=1, n=8)) == {best}
    assert set(first(temperature=2, min_p=1.0, n=8)) == {best}
    number = clear[best]
    (other,) = first(temperature=0, logit_bias={str(number): -100})
    assert other != best
    assert set(first(temperature=2, logit_bias={str(number): 100}, n=8)) == {best}
    assert len(set(first(temperature=2, n=16, seed=3))) > 4
