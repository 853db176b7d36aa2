"""How answers that part are judged, with scripted engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.engines.parity import NEAR_TIE, check_parity, compare_greedy
from whorl.testing.engine import FakeEngine

PROMPTS = [(1, 5, 6), (1, 7, 8)]


class Scripted(FakeEngine):
    """Answers 10, 11, 12 … with one id changed; scores fall by `gap` nats a higher last id."""

    def __init__(self, changed: dict[int, int] | None = None, gap: float = 0.0, length: int = 8):
        answer = [(changed or {}).get(place, 10 + place) for place in range(length)]
        super().__init__("digest", reply=lambda request: answer)
        self.gap = gap

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        return [np.full(len(ids) - 1, -self.gap * ids[-1]) for ids in sequences]


@pytest.fixture
def reference() -> Iterator[Scripted]:
    engine = Scripted(gap=NEAR_TIE * 0.9)
    yield engine
    engine.close()


def test_equal_answers_pass(reference: Scripted) -> None:
    candidate = Scripted()
    parity = check_parity(reference, candidate, PROMPTS, max_tokens=8)
    assert parity.passed and not parity.differences and parity.num_tokens == 16
    assert str(parity).startswith("2 of 2 greedy answers equal (16 tokens)")
    candidate.close()


@pytest.mark.parametrize(("token", "passes"), [(14, True), (15, False)])
def test_only_a_near_tie_is_forgiven(token: int, passes: bool, reference: Scripted) -> None:
    candidate = Scripted({3: token})  # where the reference says 13
    parity = compare_greedy(reference, candidate, PROMPTS, max_tokens=8)
    assert parity.passed is passes and len(parity.differences) == 2
    first = parity.differences[0]
    assert (first.position, first.reference_id, first.candidate_id) == (3, 13, token)
    assert first.logit_gap == pytest.approx((token - 13) * NEAR_TIE * 0.9)
    if not passes:
        with pytest.raises(EngineError, match="id 15 for 13"):
            check_parity(reference, candidate, PROMPTS, max_tokens=8)
    candidate.close()


def test_answer_that_ends_early_is_a_difference(reference: Scripted) -> None:
    candidate = Scripted(length=5)
    parity = compare_greedy(reference, candidate, PROMPTS, max_tokens=8)
    assert not parity.passed
    assert parity.differences[0].position == 5 and parity.differences[0].candidate_id is None
    candidate.close()
