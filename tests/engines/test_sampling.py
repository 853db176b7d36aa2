"""Temperature and top_p at their ends: an id of the vocabulary, whatever the numbers.

Axes: V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from whorl.core.ports import Engine, GenerateRequest
from whorl.engines.collect import run_requests
from whorl.engines.sampling import sample

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
