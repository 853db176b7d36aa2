"""What both engines promise, against transformers, brute force and each other."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import EngineError, RecordError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.engines.open import open_engine
from whorl.engines.openvino_blocks import num_cache_blocks
from whorl.engines.parity import check_parity, compare_greedy
from whorl.engines.setup import EngineSetup
from whorl.model.folder import read_card, seal_folder
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model_folder

Prompts = list[tuple[int, ...]]


class Listener:
    """Keeps a request's events, with the time of each."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []
        self.times: list[float] = []
        self.ended = threading.Event()
        self.on_token: Callable[[int], None] = lambda count: None

    def __call__(self, event: TokenEvent) -> None:
        self.events.append(event)
        self.times.append(time.monotonic())
        if event.finish_reason is not None:
            self.ended.set()
        else:
            self.on_token(len(self.events))

    @property
    def token_ids(self) -> list[int]:
        return [token for event in self.events for token in event.token_ids]


@pytest.fixture(scope="module")
def reference(folders: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folders / "hf").eval()


def test_greedy_tokens_are_those_of_transformers(
    engine: Engine, reference: torch.nn.Module, prompts: Prompts
) -> None:
    requests = [GenerateRequest(str(i), ids, 30) for i, ids in enumerate(prompts[:8])]
    for request, answer in zip(requests, run_requests(engine, requests), strict=True):
        ids = list(request.prompt_ids)
        for token in answer.token_ids:
            with torch.no_grad():
                logits = reference(torch.tensor([ids])).logits[0, -1]
            assert float(logits.max() - logits[token]) < 1e-3
            ids.append(token)
        assert len(answer.token_ids) == 30 and answer.finish_reason == "length"


def test_scores_are_log_softmax_of_transformers(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens
) -> None:
    lengths = (256, 1, 2, 40, 0, 130, 7, 255, 33, 64, 200)  # across batches and pieces of a prompt
    texts = tiny_texts(len(lengths), seed=9)
    sequences = [(tokens.encode_prompt(t) * 9)[:n] for t, n in zip(texts, lengths, strict=True)]
    scores = engine.score(sequences)
    assert [len(s) for s in scores] == [max(0, n - 1) for n in lengths]
    for ids, found in zip(sequences, scores, strict=True):
        if len(ids) < 2:
            continue
        with torch.no_grad():
            logits = reference(torch.tensor([ids])).logits[0].double().numpy()
        for t in range(len(ids) - 1):
            expected = logits[t, ids[t + 1]] - np.logaddexp.reduce(logits[t])
            assert abs(found[t] - expected) < 1e-4


def test_keys_and_values_in_int8_are_near(
    folders: Path, openvino_engine: Engine, prompts: Prompts, tmp_path: Path
) -> None:
    """As the card says it: near transformers' scores, not those of float32; three times the room
    in as many bytes; and nothing but these two names is served."""
    folder = tmp_path / "small"
    shutil.copytree(folders / "f32", folder)
    card = seal_folder(folder, replace(read_card(folder), cache="int8"))
    assert card.digest != read_card(folders / "f32").digest
    setup = EngineSetup(10_000, 2**24)
    blocks = [num_cache_blocks(each, setup) for each in (card, read_card(folders / "f32"))]
    assert 2.5 < blocks[0] / blocks[1] < 4
    theirs = AutoModelForCausalLM.from_pretrained(folders / "hf").eval()
    sequences = [list(prompt) * 4 for prompt in prompts[:8]]
    engine = open_engine(folder, name="openvino")
    plain, found = openvino_engine.score(sequences), engine.score(sequences)
    (behind,) = engine.score([sequences[2][20:]], prefix=sequences[2][:20])
    answers = run_requests(engine, [GenerateRequest("a", prompts[0], 12)])
    engine.close()
    exact = []
    for ids in sequences:
        with torch.no_grad():
            nats = theirs(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        exact.append(nats.gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy())
    right, mine, whole = (np.concatenate(each) for each in (exact, found, plain))
    assert np.abs(whole - right).max() < 2e-3 < np.abs(mine - right).max() < 0.2
    assert abs(mine.mean() - right.mean()) < 0.005
    assert np.abs(behind - exact[2][19:]).max() < 0.2 and len(answers[0].token_ids) == 12
    value = read_sealed(folder / "whorl.json")
    write_sealed(folder / "whorl.json", {**value, "cache": "int2"})
    with pytest.raises(RecordError, match=r"is not a model card.*a cache of int2"):
        read_card(folder)


def test_scores_are_right_while_requests_run(
    engine: Engine, prompts: Prompts, tokens: Tokens
) -> None:
    """GenAI alone gets this wrong by nats: scored prompts share a batch with running requests."""
    sequences = [tokens.encode_prompt(t)[:90] for t in tiny_texts(10, seed=11)]
    alone = engine.score(sequences)
    requests = [GenerateRequest(f"r{i}", prompts[i], 60) for i in range(4)]
    expected = [answer.token_ids for answer in run_requests(engine, requests)]
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener)
    together = engine.score(sequences)
    for listener, ids in zip(listeners, expected, strict=True):
        assert listener.ended.wait(60) and listener.token_ids == ids
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_openvino_gives_the_tokens_of_torch_for_50_prompts(
    torch_engine: Engine, openvino_engine: Engine, prompts: Prompts
) -> None:
    parity = check_parity(torch_engine, openvino_engine, prompts, max_tokens=40)
    assert parity.num_prompts == 50 and parity.num_tokens == 50 * 40
    assert len(parity.differences) <= 2  # near ties are rare in a trained model


def test_parity_notices_another_model(
    torch_engine: Engine, prompts: Prompts, tmp_path: Path
) -> None:
    """One that was trained less is another model: parity must say so, and where."""
    engine = open_engine(tiny_model_folder(tmp_path / "other", steps=20), name="torch")
    try:
        assert not compare_greedy(torch_engine, engine, prompts[:16], max_tokens=30).passed
        with pytest.raises(EngineError, match="does not say what torch says"):
            check_parity(torch_engine, engine, prompts[:16], max_tokens=30)
    finally:
        engine.close()


def test_answer_ends_with_a_stop_id(engine: Engine, prompts: Prompts) -> None:
    free = run_requests(engine, [GenerateRequest("free", prompts[0], 30)])[0].token_ids
    stop = free[9]
    first = free.index(stop)
    request = GenerateRequest("stopped", prompts[0], 30, stop_ids=(500, stop))
    answer = run_requests(engine, [request])[0]
    assert answer.finish_reason == "stop" and answer.token_ids == free[: first + 1]


def test_answers_do_not_depend_on_company(engine: Engine, prompts: Prompts) -> None:
    requests = [
        GenerateRequest(f"{i}", prompts[i], 20, temperature=0.9 * (i % 2), top_p=0.9, seed=i)
        for i in range(12)
    ]
    together = run_requests(engine, requests)
    alone = [run_requests(engine, [request])[0] for request in requests]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


def test_seed_decides_the_sample(engine: Engine, prompts: Prompts) -> None:
    answers = {
        run: run_requests(
            engine, [GenerateRequest("s", prompts[1], 25, temperature=1.0, seed=run % 10)]
        )[0].token_ids
        for run in (1, 2, 3, 11, 12, 13)
    }
    assert answers[1] == answers[11] and answers[2] == answers[12] and answers[3] == answers[13]
    assert len({tuple(ids) for ids in answers.values()}) == 3


def test_sampled_frequencies_are_the_models(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens
) -> None:
    """400 draws of a noun; chi-square against the softmax of transformers."""
    temperature, draws = 1.3, 400
    prompt = tuple(tokens.encode_prompt("Document 3\nThe"))
    requests = [
        GenerateRequest(f"d{seed}", prompt, 1, temperature=temperature, seed=seed)
        for seed in range(draws)
    ]
    drawn = [answer.token_ids[0] for answer in run_requests(engine, requests)]
    with torch.no_grad():
        logits = reference(torch.tensor([prompt])).logits[0, -1].double()
    expected = torch.softmax(logits / temperature, -1).numpy() * draws
    likely = expected >= 5
    observed = np.bincount(drawn, minlength=len(expected))
    expected = np.append(expected[likely], expected[~likely].sum())
    observed = np.append(observed[likely], observed[~likely].sum())
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert freedom >= 3
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4  # about 1 in 10,000, seeds are fixed


def test_a_request_that_joins_is_answered_before_the_other_ends(
    engine: Engine, prompts: Prompts
) -> None:
    alone = run_requests(engine, [GenerateRequest("alone", prompts[3], 150)])[0].token_ids
    first, second = Listener(), Listener()

    def join(count: int) -> None:
        if count == 10:
            engine.submit(GenerateRequest("second", prompts[4], 20), second)

    first.on_token = join
    engine.submit(GenerateRequest("first", prompts[3], 150), first)
    assert first.ended.wait(60) and second.ended.wait(60)
    assert second.times[0] < first.times[-1] and second.times[-1] < first.times[-1]
    assert first.token_ids == alone


def test_cancel_frees_the_place(folders: Path, prompts: Prompts) -> None:
    for folder, name in (("hf", "torch"), ("f32", "openvino")):
        engine = open_engine(folders / folder, name=name, setup=EngineSetup(1))  # type: ignore[arg-type]
        first, second = Listener(), Listener()

        def cancel(count: int, engine: Engine = engine) -> None:
            if count == 5:
                engine.cancel("first")

        first.on_token = cancel
        engine.submit(GenerateRequest("first", prompts[0], 200), first)
        engine.submit(GenerateRequest("second", prompts[1], 10), second)
        assert second.ended.wait(60)
        assert first.events[-1].finish_reason == "cancelled" and len(first.token_ids) == 5
        assert len(second.token_ids) == 10
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.generated_tokens) == (0, 0, 15)
        engine.close()


@pytest.mark.parametrize("shares", [False, True])
def test_cancelled_requests_leave_no_trace_in_the_cache(
    folders: Path, prompts: Prompts, shares: bool, trials: Callable[[int], int]
) -> None:
    """With room for about one request, leaked blocks would soon leave no room for any."""
    engine = open_engine(
        folders / "f32", setup=EngineSetup(4, cache_bytes=0, shares_prefixes=shares)
    )
    expected = run_requests(engine, [GenerateRequest("x", prompts[0], 200)])[0].token_ids
    for trial in range(trials(40)):
        listener = Listener()
        listener.on_token = lambda count, trial=trial: (
            engine.cancel(f"c{trial}") if count == 1 + trial % 7 else None
        )
        engine.submit(GenerateRequest(f"c{trial}", prompts[trial % 50], 200), listener)
        assert listener.ended.wait(30)
        assert listener.events[-1].finish_reason == "cancelled"
    assert run_requests(engine, [GenerateRequest("x", prompts[0], 200)])[0].token_ids == expected
    engine.close()


@pytest.mark.parametrize("shares", [False, True])
def test_a_small_cache_slows_requests_but_does_not_change_them(
    folders: Path, prompts: Prompts, openvino_engine: Engine, shares: bool
) -> None:
    """GenAI's own answer to a full cache can kill the process: it must never become full."""
    requests = [GenerateRequest(str(i), prompts[i], 10 + (37 * i) % 190) for i in range(16)]
    expected = [answer.token_ids for answer in run_requests(openvino_engine, requests)]
    sequences = [list(prompts[i]) * 4 for i in range(16)]
    scores = openvino_engine.score(sequences)
    engine = open_engine(
        folders / "f32", setup=EngineSetup(8, cache_bytes=0, shares_prefixes=shares)
    )
    assert [answer.token_ids for answer in run_requests(engine, requests)] == expected
    for found, wanted in zip(engine.score(sequences), scores, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    engine.close()


@pytest.mark.parametrize("shares", [False, True])
def test_random_traffic_on_a_small_cache(
    folders: Path, prompts: Prompts, shares: bool, trials: Callable[[int], int]
) -> None:
    """Requests of any length come and are cancelled at any time; each ends, none is wrong."""
    engine = open_engine(
        folders / "f32", setup=EngineSetup(8, cache_bytes=0, shares_prefixes=shares)
    )
    generator = np.random.default_rng(0)
    whole = run_requests(engine, [GenerateRequest(f"w{i}", prompts[i], 100) for i in range(10)])
    listeners = []
    for number in range(trials(60)):
        which, stop_at = int(generator.integers(10)), int(generator.integers(1, 130))
        listener = Listener()
        listener.on_token = lambda count, number=number, stop_at=stop_at: (
            engine.cancel(str(number)) if count == stop_at else None
        )
        listeners.append((which, listener))
        max_tokens = int(generator.integers(1, 101))
        engine.submit(GenerateRequest(str(number), prompts[which], max_tokens), listener)
        if number % 10 == 9:
            engine.score([prompts[which]])
    for which, listener in listeners:
        assert listener.ended.wait(60)
        assert listener.events[-1].finish_reason in ("length", "cancelled")
        assert listener.token_ids == whole[which].token_ids[: len(listener.token_ids)]
    engine.close()


def test_whole_context_can_be_used(engine: Engine, tokens: Tokens) -> None:
    ids = tuple((tokens.encode_prompt(tiny_texts(1)[0]) * 9)[:200])
    answer = run_requests(engine, [GenerateRequest("full", ids, 56)])[0]
    assert len(answer.token_ids) == 56
    with pytest.raises(EngineError, match="too long"):
        engine.submit(GenerateRequest("over", ids, 57), Listener())
    with pytest.raises(EngineError, match="too long"):
        engine.score([ids + ids])
