"""Two models of one server: each request is answered by the one that it names, in its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stages.serve.test_serve_swap import closed, opened
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.keys import add_key, keys_file
from whorl.stages.serve.served import Served
from whorl.stages.serve.server import running_server

FIRST, SECOND = "tiny", "tiny@1"


@dataclass
class Pair:
    client: httpx.Client
    models: list[Served]
    app: Any
    home: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def answer(self, model: str, **more: Any) -> str:
        more = {"prompt": "a", "max_tokens": 12, **more}
        text: str = self.post("/v1/completions", model=model, **more).json()["choices"][0]["text"]
        return text


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """v2, and beside it v1, of another contract: ids of one mean other words in the other."""
    first, second = opened(2, 512, step_s=0.002), opened(1, 500, step_s=0.002)
    second.card = second.card.model_copy(update={"name": SECOND, "variant": "hf f32"})
    settings = ServeConfig(port=0, grace_s=1)
    desk = Desk.of(settings, tmp_path)
    key = "test-key-0123456789abcdef"
    parts = first.engine, first.tokens, first.card, settings, key, desk
    app = create_app(*parts, beside=(second,))
    with (
        running_server(app, settings) as base_url,
        httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=20,
        ) as client,
    ):
        yield Pair(client, [first, second], app, tmp_path)
    app.state.gateway.close()
    assert all(closed([first, second]))


def test_each_answers_by_its_name_also_at_once(pair: Pair) -> None:
    asked = [FIRST, SECOND] * 8
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(pair.answer, asked))
    for name, text in zip(asked, texts, strict=True):
        assert set(text.split()) == {"v2" if name == FIRST else "v1"}, (name, text)


def test_both_are_listed_and_no_other_is_known(pair: Pair) -> None:
    listed = pair.client.get("/v1/models").json()
    assert [each["id"] for each in listed["data"]] == [FIRST, SECOND]
    assert (listed["first_id"], listed["last_id"]) == (FIRST, SECOND)
    assert [each["vocab_size"] for each in listed["data"]] == [
        model.tokens.contract.vocab_size for model in pair.models
    ]
    alone = pair.client.get(f"/v1/models/{SECOND}").json()
    assert alone == listed["data"][1] and alone["variant"] == "hf f32"
    refused = pair.post("/v1/completions", model="tiny@3", prompt="a")
    assert refused.status_code == 404
    assert "'tiny' and 'tiny@1'" in refused.json()["error"]["message"]


def test_texts_are_split_by_the_tokens_of_the_model_that_is_named(pair: Pair) -> None:
    for name, model in zip((FIRST, SECOND), pair.models, strict=True):
        told = pair.post("/tokenize", model=name, prompt="the shell").json()
        assert tuple(told["tokens"]) == tuple(model.tokens.encode_prompt("the shell"))
        back = pair.post("/detokenize", model=name, tokens=told["tokens"]).json()["prompt"]
        assert back.endswith("the shell")


def test_rankings_are_of_the_model_that_is_named(pair: Pair) -> None:
    asked: list[str] = []
    for name, model in zip((FIRST, SECOND), pair.models, strict=True):
        score = model.engine.score

        def noted(*work: Any, name: str = name, score: Any = score) -> Any:
            asked.append(name)
            return score(*work)

        model.engine.score = noted  # type: ignore[method-assign]
    for name in (SECOND, FIRST):
        found = pair.post("/v1/rank", model=name, prompt="a", codec="text", candidates=["b", "c"])
        assert found.status_code == 200, found.text
        assert set(asked) == {name}
        asked.clear()


def test_a_key_of_one_model_does_not_open_the_other(pair: Pair) -> None:
    secret = add_key(keys_file(pair.home), "bob", models=(FIRST,))[1]
    headers = {"Authorization": f"Bearer {secret}"}
    for name, status in ((FIRST, 200), (SECOND, 403)):
        body = {"model": name, "prompt": "a", "max_tokens": 2}
        found = pair.client.post("/v1/completions", json=body, headers=headers)
        assert found.status_code == status, found.text


def test_the_server_is_healthy_while_both_are(pair: Pair) -> None:
    assert pair.client.get("/health").status_code == 200
    pair.models[1].engine.close()
    assert pair.post("/v1/completions", model=SECOND, prompt="a").status_code == 503
    assert pair.client.get("/health").status_code == 503
    assert pair.answer(FIRST)


def test_an_answer_is_judged_with_its_version(pair: Pair) -> None:
    answered = pair.post("/v1/completions", model=SECOND, prompt="a", max_tokens=2)
    name = answered.headers["X-Request-Id"]
    judged = {"model": SECOND, "id": name, "prompt": "a", "answer": "v1", "rating": "up"}
    assert pair.post("/v1/feedback", **judged).status_code == 200
    line = (pair.home / ".serving" / "feedback.jsonl").read_text()
    assert '"version": 1' in line and f'"model": "{SECOND}"' in line
