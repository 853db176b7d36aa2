"""Candidates after one prefix, and ids that alone are allowed: against one forward per sequence.

Axes: B rows, Q questions, T tokens of a row, D width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.core.scoring import Continuations, score_together
from whorl.engines import branches
from whorl.engines.branches import CandidateScorer
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.open import open_engine
from whorl.engines.setup import EngineSetup
from whorl.engines.torch_engine import TorchStepper
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model, tiny_shape

Prompts = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def reference(folders: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folders / "hf").eval()


def by_brute_force(
    reference: torch.nn.Module, prefix: Sequence[int], candidate: Sequence[int]
) -> np.ndarray:
    """One forward of the whole sequence by transformers."""
    ids = [*prefix, *candidate]
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    places = range(len(prefix) - 1, len(ids) - 1)
    return np.array([float(log_probs[place, ids[place + 1]]) for place in places])


def candidates_of(tokens: Tokens, seed: int = 3) -> list[tuple[int, ...]]:
    """Continuations of 1 to 40 ids, some equal at first, some that no text holds."""
    generator = np.random.default_rng(seed)
    texts = tiny_texts(12, seed=seed)
    whole = [tuple(tokens.encode_prompt(text)[1 : 2 + 3 * n]) for n, text in enumerate(texts)]
    noise = [tuple(generator.integers(0, 400, size).tolist()) for size in (1, 1, 2, 7, 33)]
    return [*whole, *noise, whole[5][:3], (*whole[5][:3], 77)]


@pytest.mark.parametrize("length", [1, 30, 150])
def test_candidates_score_as_one_forward_each(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens, length: int
) -> None:
    prefix = (tokens.encode_prompt(tiny_texts(1, seed=21)[0]) * 4)[:length]
    candidates = candidates_of(tokens)
    scores = engine.score(candidates, prefix)
    expected = [by_brute_force(reference, prefix, candidate) for candidate in candidates]
    for found, wanted in zip(scores, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    best = int(np.argmax([found.sum() for found in scores]))
    assert best == int(np.argmax([wanted.sum() for wanted in expected]))


def test_every_id_is_a_candidate_and_the_prefix_is_read_once(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens
) -> None:
    """More than one job of the loop: 3 x 512 candidates, each id three times over."""
    prefix = tokens.encode_prompt(tiny_texts(1, seed=23)[0])[:50]
    scores = engine.score([(i,) for i in range(512)] * 3, prefix)
    with torch.no_grad():
        logits = reference(torch.tensor([prefix])).logits[0, -1].double()
    expected = torch.log_softmax(logits, dim=-1).numpy()
    np.testing.assert_allclose(np.concatenate(scores), np.tile(expected, 3), atol=1e-4)


def test_prefixes_take_turns_with_requests(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens, prompts: Prompts
) -> None:
    candidates = candidates_of(tokens)[:4]
    expected = [answer.token_ids for answer in run_requests(engine, [ask("a", prompts[0], 12)])]
    for number in (1, 2, 1):
        scores = engine.score(candidates, prompts[number])
        for found, candidate in zip(scores, candidates, strict=True):
            wanted = by_brute_force(reference, prompts[number], candidate)
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        answers = run_requests(engine, [ask("a", prompts[0], 12)])
        assert [answer.token_ids for answer in answers] == expected


def test_candidates_and_a_running_answer_change_nothing_of_each_other(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens, prompts: Prompts
) -> None:
    candidates = candidates_of(tokens)[:6]
    wanted = [by_brute_force(reference, prompts[1], each) for each in candidates]
    (alone,) = run_requests(engine, [ask("a", prompts[0], 100)])
    events: list[TokenEvent] = []
    ended = threading.Event()

    def on_event(event: TokenEvent) -> None:
        events.append(event)
        if event.finish_reason is not None:
            ended.set()

    engine.submit(ask("a", prompts[0], 100), on_event)
    between = 0
    while not ended.is_set():
        before = len(events)
        for found, expected in zip(engine.score(candidates, prompts[1]), wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
        between += before > 0 and not ended.is_set()
    assert [i for event in events for i in event.token_ids] == list(alone.token_ids)
    assert between  # scored while it ran


def test_questions_together_are_each_as_if_alone(
    engine: Engine, reference: torch.nn.Module, tokens: Tokens, prompts: Prompts
) -> None:
    """Prefixes of many lengths, alike long and not, equal ones among them."""
    candidates = candidates_of(tokens)
    prefixes = [*prompts[:12], *(each[:9] for each in prompts[12:24]), prompts[3], prompts[3]]
    asked = [
        Continuations(prefix, [candidates[(place + n) % len(candidates)] for n in range(4)])
        for place, prefix in enumerate(prefixes)
    ]
    asked.insert(5, Continuations(prompts[0], []))
    together = score_together(engine, asked)
    assert [len(found) for found in together] == [len(each.sequences) for each in asked]
    for each, scores in zip(asked, together, strict=True):
        alone = engine.score(each.sequences, each.prefix)
        for candidate, found, single in zip(each.sequences, scores, alone, strict=True):
            wanted = by_brute_force(reference, each.prefix, candidate)
            np.testing.assert_allclose(found, wanted, atol=1e-4)
            if engine.name == "openvino":  # whose rows do not depend on their neighbours
                assert np.array_equal(found, single)
    assert score_together(engine, []) == []


@pytest.mark.parametrize("vocab_size", [400, 2**16])
def test_pieces_hold_all_once_and_are_bounded(vocab_size: int) -> None:
    rng = np.random.default_rng(0)
    limits = Limits(1, 4096, vocab_size)
    asked = [
        Continuations([1] * int(rng.choice([3, 60, 61, 700, 2000])), [(n,)] * int(size))
        for n, size in enumerate(rng.choice([0, 1, 30, 1500, 4000], 200))
    ]
    found: list[list[Sequence[int]]] = [[] for _ in asked]
    pieces = limits.pieces(asked)
    for piece in pieces:
        (length,) = {len(each.prefix) for each in piece.questions}
        assert sum(len(each.sequences) for each in piece.questions) <= 1024
        if (count := len(piece.questions)) > 1:
            assert count * length <= 1024 and count * length * vocab_size <= 2**25
        for place, each in zip(piece.places, piece.questions, strict=True):
            assert each.prefix is asked[place].prefix
            found[place] += each.sequences
    assert found == [each.sequences for each in asked]
    assert len(pieces) < sum(bool(each.sequences) for each in asked) * 2


class CountingModel:
    """Logits that say how often each id stood before; counts its own calls."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, ...]] = []
        self.shapes: list[tuple[int, ...]] = []

    def begin(self, ids_QT: np.ndarray) -> np.ndarray:
        self.begun += [tuple(ids) for ids in ids_QT.tolist()]
        return np.array([np.bincount(ids, minlength=10) for ids in ids_QT], np.float32)

    def follow(self, after_B: np.ndarray, ids_BT: np.ndarray) -> np.ndarray:
        assert after_B.shape == ids_BT.shape[:1]
        self.shapes.append(ids_BT.shape)
        return np.zeros((*ids_BT.shape, 10), np.float32)


def test_batches_are_bounded_and_single_ids_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CountingModel()
    scorer = CandidateScorer(model)
    prefix = (1, 1, 2)
    asked = Continuations(prefix, [(number % 10,) for number in range(5_000)])
    (scores,) = scorer.score([asked])
    assert len(scores) == 5_000 and model.shapes == []
    assert scores[1][0] == pytest.approx(2 - np.log(np.exp(2) + np.exp(1) + 8))
    monkeypatch.setattr(branches, "MAX_LOGITS", 200)
    lengths = [2, 9, 3, 6, 2]
    (found,) = scorer.score([Continuations(prefix, [(1,) * length for length in lengths])])
    assert [len(each) for each in found] == lengths
    assert model.begun == [(1, 1, 2)]
    assert model.shapes == [(2, 8), (2, 2)]  # at most 200 logits of 10 ids, each row once
    assert [each[1:].tolist() for each in found] == [
        [pytest.approx(-np.log(10))] * (length - 1) for length in lengths
    ]


def test_the_next_question_does_not_find_the_prefix_of_the_one_before() -> None:
    """Through the loop, as callers ask: pieces of one question share it, an equal one does not."""

    model, stepper = CountingModel(), TorchStepper(tiny_model(tiny_shape()))
    stepper._candidates = CandidateScorer(model)
    loop = EngineLoop("counting", "digest", stepper, Limits(1, 100, 10, candidates_together=2))
    for _ in range(2):
        assert len(loop.score([(number,) for number in range(9)], (1, 1, 2))) == 9
    loop.close()
    assert model.begun == [(1, 1, 2)] * 2


def test_only_the_last_logits_of_a_prompt_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tiny_shape())
    stepper, whole, seen = TorchStepper(model), model.logits, list[int]()

    def logits(hidden_BTD: torch.Tensor) -> torch.Tensor:
        seen.append(hidden_BTD.shape[1])
        return whole(hidden_BTD)

    monkeypatch.setattr(model, "logits", logits)
    stepper.add(ask("a", tuple(range(40)), 2))
    tokens = [stepper.step()[0].token_ids[0], stepper.step()[0].token_ids[0]]
    scores = stepper.score([[7], [9]], list(range(40)))
    assert seen == [1, 1, 1]
    with torch.no_grad():
        expected = whole(model(torch.tensor([[*range(40), tokens[0]]])))[0, -2:]
    assert tokens == expected.argmax(-1).tolist()
    log_probs = torch.log_softmax(expected[0].double(), dim=-1)
    np.testing.assert_allclose([found[0] for found in scores], log_probs[[7, 9]], atol=1e-5)


# ------------------------------------------------------------------ allowed ids


def ask(name: str, prompt: tuple[int, ...], max_tokens: int, **fields: object) -> GenerateRequest:
    return GenerateRequest(name, prompt, max_tokens, **fields)  # type: ignore[arg-type]


def test_greedy_answers_are_the_best_of_the_allowed_ids(
    engine: Engine, reference: torch.nn.Module, prompts: Prompts
) -> None:
    allowed = tuple(range(40, 400, 7))
    requests = [
        ask(f"limited-{n}", prompts[n], 12, allowed_ids=allowed if n % 2 else None)
        for n in range(8)
    ]
    for request, answer in zip(requests, run_requests(engine, requests), strict=True):
        ids = list(request.prompt_ids)
        assert len(answer.token_ids) == 12 and answer.finish_reason == "length"
        for token in answer.token_ids:
            with torch.no_grad():
                logits = reference(torch.tensor([ids])).logits[0, -1]
            if request.allowed_ids is not None:
                assert token in allowed
                logits = logits[list(allowed)]
                assert float(logits.max() - logits[allowed.index(token)]) < 1e-3
            else:
                assert float(logits.max() - logits[token]) < 1e-3
            ids.append(token)


def test_drawn_answers_follow_the_model_within_the_allowed_ids(
    engine: Engine, reference: torch.nn.Module, prompts: Prompts
) -> None:
    """300 draws of one of three ids; chi-square against the softmax of transformers over them."""
    with torch.no_grad():
        logits = reference(torch.tensor([list(prompts[2])])).logits[0, -1].double()
    allowed = tuple(int(i) for i in logits.topk(40).indices[[0, 3, 6]])
    expected = torch.softmax(logits[list(allowed)] / 1.5, dim=-1).numpy()
    requests = [
        ask(f"d{n}", prompts[2], 1, temperature=1.5, seed=n, allowed_ids=allowed + allowed[2:] * 4)
        for n in range(300)
    ]
    drawn = [answer.token_ids[0] for answer in run_requests(engine, requests)]
    counts = np.array([drawn.count(i) for i in allowed])
    assert counts.sum() == 300
    assert ((counts - 300 * expected) ** 2 / (300 * expected)).sum() < 13.8  # p = 0.001, df = 2


def test_a_stop_id_ends_only_where_it_is_allowed(engine: Engine, prompts: Prompts) -> None:
    stop = 9
    request = ask("never", prompts[1], 6, allowed_ids=(40, 41), stop_ids=(stop,))
    (answer,) = run_requests(engine, [request])
    assert set(answer.token_ids) <= {40, 41} and answer.finish_reason == "length"
    request = ask("at once", prompts[1], 6, allowed_ids=(stop,), stop_ids=(stop,))
    (answer,) = run_requests(engine, [request])
    assert answer.token_ids == [stop] and answer.finish_reason == "stop"


def test_cancelling_and_company(folders: Path, prompts: Prompts) -> None:
    """Limited requests share steps with others, free their places, and change nobody's answer."""
    engine = open_engine(folders / "f32", setup=EngineSetup(2))
    plain = run_requests(engine, [ask("plain", prompts[5], 40)])[0].token_ids
    seen: list[str] = []
    ended = threading.Event()

    def on_event(event) -> None:  # type: ignore[no-untyped-def]
        if event.finish_reason is None and len(seen) < 3:
            seen.append(event.request_id)
            if len(seen) == 3:
                engine.cancel(event.request_id)
        elif event.finish_reason is not None:
            seen.append(event.finish_reason)
            ended.set()

    engine.submit(ask("gone", prompts[4], 200, allowed_ids=(50, 51)), on_event)
    assert run_requests(engine, [ask("plain", prompts[5], 40)])[0].token_ids == plain
    assert ended.wait(30)
    assert seen[-1] == "cancelled" and engine.stats().running == 0
    assert run_requests(engine, [ask("plain", prompts[5], 40)])[0].token_ids == plain
    engine.close()


def test_no_or_unknown_allowed_ids_are_refused(engine: Engine, prompts: Prompts) -> None:
    for allowed, message in (((), "no id is allowed"), ((3, 512), "outside the vocabulary")):
        with pytest.raises(EngineError, match=message):
            engine.submit(ask("x", prompts[0], 3, allowed_ids=allowed), lambda event: None)
    with pytest.raises(EngineError, match="too long"):
        engine.score([(1,) * 100], (1,) * 200)
