"""Which id comes next, from logits. Axes: V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whorl.core.ports import GenerateRequest, TokenEvent

__all__ = ["Drawing", "choose", "finish_of", "is_greedy", "sample"]

# Below it the second best id would have to lie within rounding of the best to be drawn; and it is
# no number any more once an engine divides float32 by it.
MIN_TEMPERATURE = 1e-5


def is_greedy(temperature: float) -> bool:
    """Whether the best id is taken, nothing drawn."""
    return temperature < MIN_TEMPERATURE


@dataclass
class Drawing:
    """A request that is answered id by id, from logits that somebody computes."""

    request: GenerateRequest
    answer: list[int] = field(default_factory=list)
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.request.seed)

    @property
    def unread(self) -> Sequence[int]:
        """What the model has still to read: the whole prompt, then the last id of the answer."""
        return self.answer[-1:] or self.request.prompt_ids

    def draw(self, logits_V: NDArray[np.float32]) -> TokenEvent:
        """One more id, of the logits that follow what was unread."""
        token = choose(logits_V, self.request, self.generator)
        self.answer.append(token)
        finish = finish_of(self.request, self.answer)
        return TokenEvent(self.request.request_id, (token,), finish)


def choose(
    logits_V: NDArray[np.float32], request: GenerateRequest, generator: np.random.Generator
) -> int:
    """The next id of a request, among those it allows."""
    if request.allowed_ids is None:
        return sample(logits_V, request.temperature, request.top_p, generator)
    allowed = np.asarray([*dict.fromkeys(request.allowed_ids)], np.int64)  # each weighs once
    number = sample(logits_V[allowed], request.temperature, request.top_p, generator)
    return int(allowed[number])


def finish_of(request: GenerateRequest, answer: Sequence[int]) -> Literal["stop", "length"] | None:
    """Why an answer ends with its last id; None: it goes on."""
    if answer[-1] in request.stop_ids:
        return "stop"
    return "length" if len(answer) >= request.max_tokens else None


def sample(
    logits_V: NDArray[np.float32],
    temperature: float,
    top_p: float,
    generator: np.random.Generator,
) -> int:
    """The next id: the best one where nothing is drawn, else one of the smallest set of ids whose
    probabilities add up to top_p (Holtzman et al. 2020)."""
    if is_greedy(temperature):
        return int(logits_V.argmax())
    scaled = logits_V.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = order[before < top_p] if top_p < 1 else order
    kept = kept if len(kept) else order[:1]
    weights = probabilities[kept] / probabilities[kept].sum()
    return int(generator.choice(kept, p=weights))
