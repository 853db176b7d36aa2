"""Models that take each other's place, and the places that each of them has."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve import gateway as gateway_module
from whorl.stages.serve import swap as swap_module
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.promise import Promise
from whorl.stages.serve.served import Served
from whorl.stages.serve.server import running_server
from whorl.stages.serve.swap import swap
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"


def opened(version: int, vocab_size: int = 512, **engine: Any) -> Served:
    """A model whose every answer is its number; each version has other tokens."""
    tokens = tiny_tokens(vocab_size)
    digest = tokens.contract.digest
    ids = tokens.encode_prompt(f"v{version} ")[len(tokens.contract.start_ids) :]
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=256, version=version)
    fake = FakeEngine(
        digest, lambda request: [ids[n % len(ids)] for n in range(request.max_tokens)], **engine
    )
    return Served(fake, tokens, card, fake.close)


def closed(models: list[Served]) -> list[bool]:
    return [model.engine._closed for model in models]  # type: ignore[attr-defined]


def test_models_are_swapped_under_load_and_each_answer_is_of_one(tmp_path: Path) -> None:
    """Of contracts that differ: ids of one mean other words in the other."""
    settings = ServeConfig(port=0, grace_s=2, max_waiting=200, watch_s=0.02)
    first = opened(1, step_s=0.002)
    app = create_app(
        first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings, tmp_path)
    )
    models = [first]
    texts: list[tuple[int, str]] = []
    ended = threading.Event()

    def client(base_url: str) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(trust_env=False, timeout=20, headers=headers) as session:
            while not ended.is_set():
                body = {"model": "tiny", "prompt": "a", "max_tokens": 40}
                answer = session.post(f"{base_url}/v1/completions", json=body)
                text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
                texts.append((answer.status_code, text))

    def newer() -> Served | None:
        if len(models) > 12 or time.monotonic() < last_s[0] + 0.1:
            return None
        last_s[0] = time.monotonic()
        models.append(opened(len(models) + 1, 512 + 16 * (len(models) % 3), step_s=0.002))
        return models[-1]

    last_s = [time.monotonic()]
    with running_server(app, settings, newer) as base_url:
        threads = [threading.Thread(target=client, args=(base_url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(models) <= 12:
            time.sleep(0.02)
        ended.set()
        for thread in threads:
            thread.join()
        deadline_s = time.monotonic() + 5
        while (
            time.monotonic() < deadline_s
            and any(
                not model.engine._closed  # type: ignore[attr-defined]
                for model in models[:-1]
            )
        ):
            time.sleep(0.02)
        closed = [model.engine._closed for model in models]  # type: ignore[attr-defined]
        assert closed == [True] * 12 + [False]
    models[-1].close()
    assert len(texts) > 12 and {status for status, _ in texts} == {200}
    seen: set[str] = set()
    for _, text in texts:
        words = set(text.split()[:-1])  # the last one may be cut
        assert len(words) == 1, text
        seen |= words
    assert len(seen) >= 8
    told = (tmp_path / ".serving/answers.jsonl").read_text().splitlines()
    versions = {json.loads(line)["version"] for line in told}
    assert {f"v{version}" for version in versions} >= seen


def test_a_model_that_makes_no_token_is_not_swapped_in() -> None:
    settings = ServeConfig(port=0)
    first, stuck, dead = opened(1), opened(2), opened(3)
    stuck.engine.stalled = True  # type: ignore[attr-defined]
    dead.engine.close()
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))

    async def swap_both() -> list[str | None]:
        return [await swap(app.state.gateway, model, 0.3) for model in (stuck, dead)]

    told = asyncio.run(swap_both())
    assert "no token within 0.3 s" in str(told[0]) and "closed" in str(told[1])
    assert app.state.gateway.engine is first.engine
    first.close()


def test_a_new_model_is_closed_whatever_its_probe_raises() -> None:
    settings = ServeConfig(port=0)
    first, odd, slow = opened(1), opened(2), opened(3)
    slow.engine.stalled = True  # type: ignore[attr-defined]
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))

    def raises(*_: Any) -> None:
        raise RuntimeError("not of our errors")

    odd.engine.submit = raises  # type: ignore[method-assign]

    async def swap_both() -> None:
        with pytest.raises(RuntimeError, match="not of our errors"):
            await swap(app.state.gateway, odd, 5.0)
        swapping = asyncio.ensure_future(swap(app.state.gateway, slow, 5.0))
        await asyncio.sleep(0.05)
        swapping.cancel()  # the server stops meanwhile
        with pytest.raises(asyncio.CancelledError):
            await swapping

    asyncio.run(swap_both())
    assert closed([first, odd, slow]) == [False, True, True]
    first.close()


def test_a_model_that_is_opened_when_the_server_has_stopped_is_closed() -> None:
    settings = ServeConfig(port=0, watch_s=0.01)
    first, late = opened(1), opened(2)
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    asked, stopped = threading.Event(), threading.Event()

    def slow() -> Served:
        asked.set()
        assert stopped.wait(10)
        return late

    with running_server(app, settings, slow):
        assert asked.wait(5)
        threading.Timer(0.3, stopped.set).start()
    deadline_s = time.monotonic() + 5
    while not closed([late])[0] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert closed([first, late]) == [False, True]
    first.close()


def promised(version: int, users: int, basis: str = "measured") -> Served:
    model = opened(version)
    promise = Promise(
        basis=basis,  # type: ignore[arg-type]
        users=users,
        ttft_p95_s=0.1,
        tokens_per_s_per_user=20,
        tokens_per_s=60,
        prompt_tokens=32,
        memory_bytes=10**9,
    )
    card = model.card.model_copy(update={"promise": promise})
    return Served(model.engine, model.tokens, card, model.close)


@pytest.fixture
def server_is_heard(hear: Callable[..., None]) -> None:
    hear(gateway_module.LOG, swap_module.LOG)


@pytest.mark.usefixtures("server_is_heard")
def test_places_that_are_not_those_of_the_recipe_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And they are one model's: the next one is not held to what the one before could do."""
    settings = ServeConfig(port=0, max_running=8, max_waiting=2)
    models = [promised(1, 3), promised(2, 8), promised(3, 20), opened(4), promised(5, 5)]
    first = models[0]
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    gateway = app.state.gateway
    told, places = [caplog.text], [gateway.desk.admission.places]
    for model in models[1:]:
        caplog.clear()
        gateway.take_over(model)
        told.append(caplog.text)
        places.append(gateway.desk.admission.places)
    assert places == [5, 10, 22, 10, 7]
    assert gateway.config.max_running == 8
    assert [bool(text) for text in told] == [True, False, True, False, True]
    assert "3 requests run together, not serve.max_running 8: with more" in told[0]
    assert "20 requests run together, not serve.max_running 8: so many are asked for" in told[2]
    for model in models:
        model.close()


@pytest.mark.usefixtures("server_is_heard")
def test_a_promise_that_is_only_predicted_opens_no_more_places(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does its engine run more, and what the card tells is what holds."""
    settings = ServeConfig(port=0, max_running=16, max_waiting=2, users=16, tokens_per_s_per_user=9)
    models = [promised(1, 3), promised(2, 16, "predicted"), promised(3, 16, "predicted")]
    first = models[0]
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    gateway = app.state.gateway
    for model in models[1:]:
        caplog.clear()
        assert asyncio.run(swap(gateway, model, 5.0)) is None
        assert gateway.desk.admission.max_running == 3
        assert "3 requests run together, not serve.max_running 16: as with" in caplog.text
        promise = gateway.card.promise
        assert (promise.users, promise.tokens_per_s) == (3, pytest.approx(60 * 3 / 16))
        assert promise.missed == ("users 16: 3",)
        run_requests(model.engine, [GenerateRequest(str(n), (1, 2), 4) for n in range(8)])
        assert model.engine.max_seen_running == 3  # type: ignore[attr-defined]
    gateway.take_over(measured := promised(4, 7))
    assert gateway.desk.admission.max_running == 7
    for model in (*models, measured):
        model.close()


@pytest.mark.usefixtures("server_is_heard")
def test_a_model_that_cannot_be_opened_leaves_the_one_before(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServeConfig(port=0, watch_s=0.02)
    first = opened(1)
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    asked = 0

    def broken() -> Served | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise EngineError("the model is damaged")
        return None

    with running_server(app, settings, broken) as base_url:
        while asked < 3:
            time.sleep(0.01)
        answer = httpx.get(f"{base_url}/health", trust_env=False)
        assert answer.status_code == 200
    first.close()
    assert "the model is damaged" in caplog.text and app.state.gateway.engine is first.engine
