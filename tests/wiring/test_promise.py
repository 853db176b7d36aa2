"""What a server promises is what its engine does, whatever it was predicted to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whorl import serving
from whorl.core import collect
from whorl.core.errors import EngineError, SpecError
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.core.records import FileEntry
from whorl.core.variants import Variant
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.setup import EngineSetup
from whorl.launch.cards import Card
from whorl.model.folder import FolderCard, peek_card
from whorl.servable import Servable, find_model
from whorl.serving import open_model_app
from whorl.spec.load import parse_recipe
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.promise import Promise
from whorl.testing.models import tiny_model_folder, tiny_shape
from whorl.wiring import promise as module
from whorl.wiring import rates
from whorl.wiring.over_http import AnswerTimes
from whorl.wiring.promise import keep_promise, predict, predict_folder, setup_of

CARD = FolderCard(Variant("openvino", "int8"), "digest", tiny_shape(), {})


class Slower:
    """A stepper whose steps take 4 ms for each of its requests, by a clock of its own."""

    def __init__(self) -> None:
        self.running: dict[str, list[int]] = {}
        self.now_s = 0.0
        self.is_new = True

    def add(self, request: GenerateRequest) -> bool:
        self.running[request.request_id] = [request.max_tokens]
        return True

    def cancel(self, request_id: str) -> None:
        self.running.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        if self.is_new:  # who comes at the same time is here before the first step
            time.sleep(0.05)
            self.is_new = False
            return []
        self.now_s += 0.004 * len(self.running)
        events = []
        for name, left in list(self.running.items()):
            left[0] -= 1
            events.append(TokenEvent(name, (1,), None if left[0] else "length"))
            if not left[0]:
                del self.running[name]
        self.is_new = not self.running
        return events

    def close(self) -> None: ...


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineLoop]:
    stepper = Slower()
    monkeypatch.setattr(collect, "time", SimpleNamespace(monotonic=lambda: stepper.now_s))
    loop = EngineLoop("slower", "digest", stepper, Limits(64, 256, 512))  # type: ignore[arg-type]
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda interval: 1.0)


def promised(engine: EngineLoop, folder: Path, **config: Any) -> Promise:
    chosen = ServeConfig(**{"max_running": 16, **config})
    setup = setup_of(CARD, chosen, 1)
    fast = predict(CARD, CARD.variant, chosen, setup, probe=lambda: (1e12, 1e11))
    return keep_promise(asking(engine), lambda: fast, CARD, CARD.variant, chosen, folder)


def asking(engine: EngineLoop) -> Any:
    """The engine alone, by its own clock."""

    @contextmanager
    def ask_of(users: int) -> Iterator[Any]:
        def ask(prompts: Any, most: int) -> list[AnswerTimes]:
            requests = [
                GenerateRequest(f"{i}", ids, most, cache_key="own") for i, ids in enumerate(prompts)
            ]
            answers = collect.run_requests(engine, requests)
            firsts = [answer.first_token_s or answer.end_s for answer in answers]
            return [
                AnswerTimes(len(answer.token_ids), first_s, first_s, answer.end_s)
                for answer, first_s in zip(answers, firsts, strict=True)
            ]

        yield ask

    return ask_of


def test_it_is_what_the_engine_does(engine: EngineLoop, tmp_path: Path) -> None:
    found = promised(engine, tmp_path)
    assert (found.basis, found.users, found.missed) == ("measured", 16, ())
    assert found.tokens_per_s_per_user == pytest.approx(1 / (16 * 0.004))
    assert found.tokens_per_s == pytest.approx(250)
    assert found.ttft_p95_s == pytest.approx(16 * 0.004)


def test_fewer_users_where_more_would_miss_a_target(engine: EngineLoop, tmp_path: Path) -> None:
    """At 4 ms for each, 31 tokens per second and user are had by at most 8."""
    found = promised(engine, tmp_path, tokens_per_s_per_user=25)
    assert (found.users, found.missed) == (8, ())
    found = promised(engine, tmp_path, ttft_p95=0.022)
    assert found.users == 4 and found.ttft_p95_s <= 0.022


def test_what_nothing_keeps_is_said(engine: EngineLoop, tmp_path: Path) -> None:
    found = promised(engine, tmp_path, tokens_per_s_per_user=1000, users=32)
    assert found.users == 32 and len(found.missed) == 1
    assert "tokens_per_s_per_user 1000: " in str(found)
    found = promised(engine, tmp_path, tokens_per_s_per_user=25, users=32)
    assert found.users == 8 and found.missed == ("users 32: 8",)


def test_it_is_measured_once(
    engine: EngineLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promised(engine, tmp_path)
    monkeypatch.setattr(module, "_measure", lambda *rest: pytest.fail("measured again"))
    assert promised(engine, tmp_path) == first
    monkeypatch.setattr(module, "peek_card", lambda folder: CARD)
    told = predict_folder(tmp_path, None, ServeConfig(max_running=16), tmp_path)
    assert told == first  # as --dry-run says it
    unpredicted = partial(pytest.fail, "predicted again")
    config = ServeConfig(max_running=16)
    assert keep_promise(asking(engine), unpredicted, CARD, CARD.variant, config, tmp_path) == first
    with pytest.raises(pytest.fail.Exception):  # that was on this machine, not on Ray's
        promised(engine, tmp_path, where="ray")
    exported = (CARD, Variant("openvino", "int4"), ServeConfig(max_running=16))
    with pytest.raises(pytest.fail.Exception):  # that was another variant of the same folder
        keep_promise(asking(engine), lambda: first, *exported, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(pytest.fail.Exception):
        promised(engine, tmp_path)


@pytest.mark.parametrize("fails", [False, True])
def test_the_server_is_loaded_before_its_engine_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """And an engine whose server cannot be loaded is closed."""
    told: list[str] = []
    closed = threading.Event()
    engine = SimpleNamespace(close=closed.set)
    card = SimpleNamespace(model_copy=lambda update: update["promise"])

    def open_here(*work: Any) -> Any:
        return engine, measure

    def measure(*of_a_server: Any) -> str:
        told.append("measured")
        return "promise"

    def load(*work: Any) -> Any:
        time.sleep(0.1)
        told.append("loaded")
        if fails:
            raise SpecError("damaged")
        return "tokens", card, {}

    monkeypatch.setattr(module, "open_promised", open_here)
    monkeypatch.setattr(serving, "_card_of", load)
    model = Servable("tiny", tmp_path, None)
    expected: Any = pytest.raises(SpecError) if fails else nullcontext()
    with expected:
        assert serving._open(model, ServeConfig(), tmp_path) == (engine, "tokens", "promise", {})
    assert closed.wait(20) if fails else not closed.is_set()
    assert told == (["loaded"] if fails else ["loaded", "measured"])


def test_what_was_measured_on_a_busy_machine_is_not_kept(
    engine: EngineLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda interval: 90.0)
    promised(engine, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_predicted_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hear: Callable[..., None]
) -> None:
    """A start is not refused for it; the next one measures."""
    hear(module.LOG)
    config = ServeConfig(max_running=16)
    guess = predict(CARD, CARD.variant, config, setup_of(CARD, config, 1), lambda: (1e12, 1e11))

    @contextmanager
    def refusing(users: int) -> Iterator[Any]:
        def ask(prompts: Any, most: int) -> list[AnswerTimes]:
            raise refusal

        yield ask

    for refusal in (EngineError("refused", found="429"), OSError(24, "Too many open files")):
        asked = (refusing, lambda: guess, CARD, CARD.variant, config, tmp_path)
        assert keep_promise(*asked) == guess
        assert str(refusal) in caplog.text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("most", "told"), [(1, 2), (20, 20), (500, 32)])
def test_answers_are_no_longer_than_the_server_allows(
    engine: EngineLoop, tmp_path: Path, most: int, told: int
) -> None:
    found = promised(engine, tmp_path, max_tokens=most)
    assert found.answer_tokens == told and f"answers of {told})" in str(found)


def test_what_is_missing_goes_on_as_fast() -> None:
    """2 s until the first tokens, then 10 a second each: of 12 tokens, of 20, as if of 20."""
    config = ServeConfig(max_running=2)
    guess = predict(CARD, CARD.variant, config, EngineSetup(2), lambda: (1e11, 1e10))
    for asked in (12, 20):
        answers = [AnswerTimes(asked, 2.0, 2.1, 2 + (asked - 1) / 10)] * 2
        found = module._of_answers(answers, guess, 20)
        assert found.tokens_per_s == pytest.approx(2 * 20 / 3.9)
        assert found.tokens_per_s_per_user == pytest.approx(10)
        assert found.ttft_p95_s == pytest.approx(2.1)  # as its client saw it


def test_rates_are_of_all_cores_whatever_threads_numpy_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take 20 ms each, of which all 3 must be begun before one ends."""
    together = threading.Barrier(3)

    def product(left: Any) -> None:
        together.wait(20)
        time.sleep(0.02)

    monkeypatch.setattr(rates, "engine_threads", lambda: 3)
    monkeypatch.setattr(rates, "_product", product)
    flops, _ = rates.probed_rates(size=100, num_bytes=2**12)
    assert 2 * 2e6 / 0.02 < flops <= 3 * 2e6 / 0.02


def test_nothing_is_measured_before_it_is_asked_for(
    engine: EngineLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is loaded while the engine opens, and would be measured with it."""
    folder, kept = tiny_model_folder(tmp_path / "model", steps=0), tmp_path / "kept"
    monkeypatch.setattr(module, "_open", lambda *rest: engine)
    monkeypatch.setattr(module, "asked_over_http", lambda *rest: asking(engine)(rest[-1]))
    of_a_server: Any = (None, None)
    opened, promise = module.open_promised(folder, None, ServeConfig(max_running=4), kept)
    assert opened is engine and engine.stats().generated_tokens == 2  # warm
    assert not kept.exists()
    assert promise(*of_a_server).basis == "measured" and len(list(kept.iterdir())) == 1
    _, predicted = module.open_promised(
        folder, None, ServeConfig(max_running=4), kept, measures=False
    )
    assert predicted(*of_a_server).basis == "predicted"


@pytest.mark.parametrize("is_open", [True, False])
def test_all_that_a_server_keeps_is_in_its_home(
    tmp_path: Path, isolated_home: Path, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports and promises too, also where nobody is let in; the default home is not touched."""
    pytest.importorskip("openvino_genai")
    folder, home = tiny_model_folder(tmp_path / "model", steps=0), tmp_path / "other"
    config = ServeConfig(port=0, max_running=1)
    app, close = open_model_app(
        Servable("tiny", folder, None), config, "k" * 16, home=home, is_open=is_open
    )
    try:
        assert app.state.gateway.card.promise.basis == "measured"
    finally:
        close()
    monkeypatch.setattr(module, "predict", lambda *rest: pytest.fail("predicted again"))
    again, close = open_model_app(
        Servable("tiny", folder, None), config, "k" * 16, home=home, is_open=is_open
    )
    close()
    assert again.state.gateway.card.promise == app.state.gateway.card.promise
    kept = [path.name for path in (home / ".engines").iterdir()]
    assert any(name.endswith(".json") and name.startswith("promise-") for name in kept)
    assert any("openvino-f32" in name for name in kept)
    assert (home / ".serving").exists() == is_open
    assert not isolated_home.exists()


def test_a_prediction_needs_no_weights(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", steps=0)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    model = find_model(str(folder), ServeConfig(), tmp_path)  # nor does finding the model
    found = predict_folder(model.folder, model.variant, ServeConfig(max_running=4))
    assert found.basis == "predicted" and found.users == 4
    assert found.memory_bytes > peek_card(folder).weight_bytes


def test_predictions_follow_the_machine_and_the_load() -> None:
    def of(users: int, flops: float, bandwidth: float) -> Promise:
        config = ServeConfig(max_running=users)
        return predict(CARD, CARD.variant, config, EngineSetup(users), lambda: (flops, bandwidth))

    slow, fast = of(8, 1e9, 1e9), of(8, 1e11, 1e11)
    assert fast.ttft_p95_s < slow.ttft_p95_s
    assert fast.tokens_per_s_per_user > slow.tokens_per_s_per_user
    crowded = of(64, 1e9, 1e9)
    assert crowded.tokens_per_s_per_user < slow.tokens_per_s_per_user
    assert crowded.tokens_per_s > slow.tokens_per_s and crowded.memory_bytes > slow.memory_bytes


def test_a_request_of_the_whole_context_has_room_whatever_memory_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from whorl.engines.openvino_blocks import blocks_of, num_cache_blocks

    monkeypatch.setattr(module, "machine_facts", lambda: SimpleNamespace(memory_bytes=1))
    setup = setup_of(CARD, ServeConfig(), 1)
    assert setup.cache_bytes == 0
    assert num_cache_blocks(CARD, setup) == blocks_of(CARD.shape.max_seq_len)


def test_targets_of_a_recipe() -> None:
    serve = {"ttft_p95": "300ms", "tokens_per_s_per_user": 20, "users": 8}
    recipe = parse_recipe({"name": "x", "data": [{"source": "."}], "serve": serve}).recipe
    config = ServeConfig(**recipe.serve.model_dump())
    assert (config.ttft_p95, config.tokens_per_s_per_user, config.users) == (0.3, 20, 8)


def test_a_second_pipeline_takes_memory() -> None:
    """Weights twice, and the context of one more request."""
    guessing = replace(CARD, lookup=4, files={"m.bin": FileEntry(2**30, "", ())})
    plain = replace(guessing, lookup=0)
    config = ServeConfig()
    needs = [
        predict(card, card.variant, config, EngineSetup(4), lambda: (1e11, 1e10)).memory_bytes
        for card in (plain, guessing)
    ]
    context = CARD.shape.max_seq_len * CARD.cache_bytes_per_token
    assert 2 * 2**30 < needs[1] - needs[0] - context < 5 * 2**30
    assert setup_of(guessing, config, 1).cache_bytes <= setup_of(plain, config, 1).cache_bytes


def test_several_vllms_do_not_share_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "found_cards", lambda: [Card("H100", "nvidia", 8e10, 700.0, 2)])
    config = ServeConfig(engine="vllm", replicas=2)
    with pytest.raises(SpecError, match=r"serve\.replicas.*2 replicas.*where: ray"):
        module._open(tmp_path, None, config, EngineSetup(4), tmp_path)
