"""Temperature and top_p at their ends: an id of the vocabulary, whatever the numbers.

Axes: T tokens, V vocabulary.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from whorl.core.collect import run_requests
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.engines.sampling import choose, logprob_of, sample

logits = arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e4, 1e4, width=32))
shares = st.floats(0, 1, exclude_min=True)


@given(logits, st.floats(0, 2), shares)
def test_any_temperature_and_share_draw_an_id(
    logits_V: np.ndarray, temperature: float, top_p: float
) -> None:
    generator = np.random.default_rng(0)
    assert 0 <= sample(logits_V, temperature, top_p, generator) < len(logits_V)


@given(logits, st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1e-40, 1e-9]))
def test_as_good_as_no_temperature_is_the_best_id(logits_V: np.ndarray, temperature: float) -> None:
    assert sample(logits_V, temperature, 1.0, np.random.default_rng(0)) == int(logits_V.argmax())


@given(logits, st.floats(0.1, 2), st.sampled_from([5e-324, 1e-300, 1e-12]))
def test_as_good_as_no_share_is_a_best_id(
    logits_V: np.ndarray, temperature: float, top_p: float
) -> None:
    chosen = sample(logits_V, temperature, top_p, np.random.default_rng(0))
    assert logits_V[chosen] >= logits_V.max() - 1e-3


@pytest.mark.parametrize("limited", [False, True])
def test_both_engines_take_the_smallest_numbers(
    engine: Engine, prompts: list[tuple[int, ...]], limited: bool
) -> None:
    allowed = tuple(range(30, 200)) if limited else None
    tiny = [0.0, 5e-324, 1e-300, 1e-40, 1e-9]
    requests = [
        GenerateRequest(f"t-{value}", prompts[0], 6, temperature=value, allowed_ids=allowed)
        for value in tiny
    ]
    requests += [
        GenerateRequest(
            f"p-{value}", prompts[0], 6, temperature=1.0, top_p=value, seed=3, allowed_ids=allowed
        )
        for value in tiny[1:]
    ]
    best, *others = [answer.token_ids for answer in run_requests(engine, requests)]
    assert len(best) == 6 and all(answer == best for answer in others)
    hot = [
        GenerateRequest(f"h-{value}", prompts[0], 6, temperature=value, allowed_ids=allowed)
        for value in (1e-5, 2e-5, 1e-3, 2.0)
    ]
    assert all(len(answer.token_ids) == 6 for answer in run_requests(engine, hot))


class Recorder:
    """In place of numpy's generator: keeps the probabilities of the ids that may be drawn."""

    def choice(self, ids: np.ndarray, p: np.ndarray) -> int:
        self.drawn = dict(zip(ids.tolist(), p.tolist(), strict=True))
        return int(ids[0])


@given(
    arrays(np.float32, 30, elements=st.floats(-8, 8, width=16), unique=True),
    st.builds(
        GenerateRequest,
        request_id=st.just("r"),
        prompt_ids=st.lists(st.integers(0, 29), min_size=1, max_size=5).map(tuple),
        max_tokens=st.just(9),
        temperature=st.floats(0.25, 2),
        top_k=st.integers(0, 40),
        top_p=st.floats(0.1, 1),
        min_p=st.floats(0, 0.5),
        repetition_penalty=st.floats(0.5, 2),
        logit_bias=st.dictionaries(st.integers(0, 29), st.floats(-5, 5), max_size=3).map(
            lambda biases: tuple(biases.items())
        ),
    ),
    st.lists(st.integers(0, 29), max_size=6),
)
def test_the_probabilities_are_those_of_transformers(
    logits_V: np.ndarray, request: GenerateRequest, answer: list[int]
) -> None:
    recorder = Recorder()
    choose(logits_V, request, recorder, answer)  # type: ignore[arg-type]
    found = np.zeros(30)
    found[list(recorder.drawn)] = list(recorder.drawn.values())
    # an id at the very edge of top_p or min_p may fall to either side by rounding
    nearly = [
        replace(request, top_p=min(1.0, request.top_p + a), min_p=max(0.0, request.min_p + b))
        for a in (0.0, 1e-5, -1e-5)
        for b in (0.0, 1e-5, -1e-5)
    ]
    assert any(np.abs(found - theirs(logits_V, each, answer)).max() < 1e-4 for each in nearly)


def theirs(logits_V: np.ndarray, request: GenerateRequest, answer: list[int]) -> np.ndarray:
    """Probabilities by transformers, where no two ids are equally good."""
    import torch
    import transformers as hf

    steps = hf.LogitsProcessorList()
    if request.logit_bias:
        steps.append(hf.SequenceBiasLogitsProcessor([[[i], b] for i, b in request.logit_bias]))
    steps.append(hf.RepetitionPenaltyLogitsProcessor(request.repetition_penalty))
    seen = torch.tensor([[*request.prompt_ids, *answer]])
    scores = steps(seen, torch.from_numpy(logits_V[None].copy()))
    assume(len(scores.unique()) == len(logits_V))
    steps = hf.LogitsProcessorList([hf.TemperatureLogitsWarper(request.temperature)])
    if request.top_k:
        steps.append(hf.TopKLogitsWarper(request.top_k))
    steps.append(hf.TopPLogitsWarper(request.top_p))
    steps.append(hf.MinPLogitsWarper(request.min_p))
    return torch.softmax(steps(seen, scores)[0].double(), -1).numpy()


def test_penalties_are_those_of_openai() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, of the answer alone."""
    logits_V = np.array([-2.0, -2.1, 1.0, 1.2, 1.1], np.float32)
    request = GenerateRequest(
        "r", (4, 4), 9, temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25
    )
    recorder = Recorder()
    choose(logits_V, request, recorder, [0, 0, 3])  # type: ignore[arg-type]
    expected = np.array([-2.0 - 0.5 - 2 * 0.25, -2.1, 1.0, 1.2 - 0.75, 1.1])
    expected = np.exp(expected) / np.exp(expected).sum()
    assert [recorder.drawn[i] for i in range(5)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_log_probabilities_are_the_models_own() -> None:
    import torch

    logits_V = np.random.default_rng(0).normal(size=50).astype(np.float32)
    log_probs = torch.log_softmax(torch.from_numpy(logits_V).double(), 0)
    best = torch.topk(log_probs, 4)
    found = logprob_of(logits_V, 7, 4)
    assert found.token_id == 7 and found.logprob == pytest.approx(log_probs[7].item())
    assert [number for number, _ in found.top] == best.indices.tolist()
    assert [value for _, value in found.top] == pytest.approx(best.values.tolist())
    assert logprob_of(logits_V, 7, 0).top == () and len(logprob_of(logits_V, 7, 99).top) == 50


def log_probs_after(folder: Path, ids: list[int]) -> np.ndarray:
    """[T, V] by transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    with torch.inference_mode():
        logits_TV = model(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits_TV.double(), -1).numpy()


@pytest.mark.parametrize("num_top", [0, 3])
def test_both_engines_tell_log_probabilities(
    engine: Engine, folders: Path, prompts: list[tuple[int, ...]], num_top: int
) -> None:
    request = GenerateRequest(
        "r", prompts[0], 8, temperature=1.5, top_k=9, seed=4, logprobs=num_top
    )
    answer = collect_events(engine, request)
    ids = [number for event in answer for number in event.token_ids]
    told = [each for event in answer for each in event.logprobs]
    assert [each.token_id for each in told] == ids and len(ids) == 8
    expected_TV = log_probs_after(folders, [*prompts[0], *ids])[len(prompts[0]) - 1 : -1]
    for each, expected_V in zip(told, expected_TV, strict=True):
        assert each.logprob == pytest.approx(expected_V[each.token_id], abs=1e-3)
        best = np.sort(expected_V)[::-1][:num_top]
        assert [value for _, value in each.top] == pytest.approx(best.tolist(), abs=1e-3)
    plain = collect_events(engine, GenerateRequest("p", prompts[0], 2))
    assert not any(event.logprobs for event in plain)


def collect_events(engine: Engine, request: GenerateRequest) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    ended = threading.Event()

    def on_event(event: TokenEvent) -> None:
        events.append(event)
        if event.finish_reason is not None:
            ended.set()

    engine.submit(request, on_event)
    assert ended.wait(60)
    return events


@pytest.mark.parametrize(
    "wish",
    [{"top_k": 4}, {"min_p": 0.3}, {"top_p": 0.5}, {"top_k": 12, "top_p": 0.7, "min_p": 0.2}],
)
def test_both_engines_draw_what_the_request_leaves(
    engine: Engine, folders: Path, prompts: list[tuple[int, ...]], wish: dict[str, float]
) -> None:
    ids = (*prompts[0], 77, 301, 52)  # senseless, so that many ids are about as probable
    logits_V = log_probs_after(folders, list(ids))[-1].astype(np.float32)
    recorder = Recorder()
    asked = GenerateRequest("r", ids, 1, temperature=2.0, **wish)  # type: ignore[arg-type]
    choose(logits_V, asked, recorder)  # type: ignore[arg-type]
    requests = [replace(asked, request_id=str(seed), seed=seed) for seed in range(80)]
    drawn = {answer.token_ids[0] for answer in run_requests(engine, requests)}
    assert len(drawn) > 1 and drawn <= set(recorder.drawn)


def test_penalties_are_no_rewards_where_logits_are_negative(
    engine: Engine, folders: Path, prompts: list[tuple[int, ...]]
) -> None:
    """Greedy answers of both engines under penalties are those of the formula."""
    wish = {"presence_penalty": 1.5, "frequency_penalty": 0.5}
    request = GenerateRequest("r", prompts[2], 12, **wish)  # type: ignore[arg-type]
    answer: list[int] = []
    for _ in range(12):
        scores_V = log_probs_after(folders, [*prompts[2], *answer])[-1]  # all of them negative
        for number in set(answer):
            scores_V[number] -= 1.5 + 0.5 * answer.count(number)
        answer.append(int(scores_V.argmax()))
    assert run_requests(engine, [request])[0].token_ids == answer
