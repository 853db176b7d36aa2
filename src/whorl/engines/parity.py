"""Do two engines say the same? Greedy answers compared token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest

__all__ = ["NEAR_TIE", "Difference", "Parity", "check_parity", "compare_greedy"]

NEAR_TIE = 1e-3  # logits closer than this may be ordered by rounding


@dataclass(frozen=True)
class Difference:
    """Where the answers to one prompt part. What follows cannot be compared."""

    prompt_number: int
    position: int  # of the answer's tokens
    reference_id: int | None  # None: the answer ended here
    candidate_id: int | None
    logit_gap: float  # of the two ids, by the reference engine; infinite where one ended

    @property
    def is_near_tie(self) -> bool:
        return self.logit_gap <= NEAR_TIE


@dataclass(frozen=True)
class Parity:
    num_prompts: int
    num_tokens: int  # of the reference's answers
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        return all(difference.is_near_tie for difference in self.differences)

    def __str__(self) -> str:
        equal = self.num_prompts - len(self.differences)
        ties = sum(difference.is_near_tie for difference in self.differences)
        return (
            f"{equal} of {self.num_prompts} greedy answers equal ({self.num_tokens} tokens), "
            f"{ties} part at a near tie, {len(self.differences) - ties} differ"
        )


def compare_greedy(
    reference: Engine,
    candidate: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_ids: Sequence[int] = (),
) -> Parity:
    """Answer every prompt with both engines. Raises EngineError if one fails."""
    requests = [
        GenerateRequest(f"parity-{number}", tuple(ids), max_tokens, stop_ids=tuple(stop_ids))
        for number, ids in enumerate(prompts)
    ]
    expected = [answer.token_ids for answer in run_requests(reference, requests)]
    found = [answer.token_ids for answer in run_requests(candidate, requests)]
    differences = []
    for number, (prompt, ours, theirs) in enumerate(zip(prompts, expected, found, strict=True)):
        if ours != theirs:
            differences.append(_first_difference(reference, number, list(prompt), ours, theirs))
    return Parity(len(prompts), sum(len(ids) for ids in expected), tuple(differences))


def check_parity(
    reference: Engine,
    candidate: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = 64,
    stop_ids: Sequence[int] = (),
) -> Parity:
    """compare_greedy; raises EngineError if an answer differs where there is no near tie."""
    parity = compare_greedy(reference, candidate, prompts, max_tokens=max_tokens, stop_ids=stop_ids)
    if not parity.passed:
        worst = max(parity.differences, key=lambda difference: difference.logit_gap)
        raise EngineError(
            f"{candidate.name} does not say what {reference.name} says: {parity}",
            found=f"prompt {worst.prompt_number}, token {worst.position}: id "
            f"{worst.candidate_id} for {worst.reference_id}, logits {worst.logit_gap:.2g} apart",
            expected=f"the same id, or logits within {NEAR_TIE:g}",
        )
    return parity


def _first_difference(
    reference: Engine, number: int, prompt: list[int], ours: list[int], theirs: list[int]
) -> Difference:
    shorter = min(len(ours), len(theirs))
    position = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    if position == shorter:
        first = ours[position] if position < len(ours) else None
        second = theirs[position] if position < len(theirs) else None
        return Difference(number, position, first, second, float("inf"))
    before = prompt + ours[:position]
    scores = reference.score([[*before, ours[position]], [*before, theirs[position]]])
    gap = float(scores[0][-1] - scores[1][-1])
    return Difference(number, position, ours[position], theirs[position], abs(gap))
