"""Which id comes next, from logits. Axes: V vocabulary, K ids that may come.

The order is transformers': bias, penalties, what may come, temperature, top_k, top_p, min_p.
Presence and frequency penalties count the answer alone, the repetition penalty the prompt too, as
in OpenAI's and vLLM's servers; log-probabilities are the model's own, before any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from whorl.core.ports import GenerateRequest, TokenEvent, TokenLogprob

__all__ = ["Drawing", "Matcher", "choose", "finish_of", "is_greedy", "logprob_of", "sample"]

# Below it the second best id would have to lie within rounding of the best to be drawn; and it is
# no number any more once an engine divides float32 by it.
MIN_TEMPERATURE = 1e-5


class Matcher(Protocol):
    """A grammar, and how far an answer has come in it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more may come."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """[V] the ids that may come next: stop ids where the answer may end."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on by one of them."""
        ...


def is_greedy(temperature: float) -> bool:
    """Whether the best id is taken, nothing drawn."""
    return temperature < MIN_TEMPERATURE


@dataclass
class Drawing:
    """A request that is answered id by id, from logits that somebody computes."""

    request: GenerateRequest
    matcher: Matcher | None = None  # of the request's grammar
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
        request = self.request
        grammar_V = None if self.matcher is None else self.matcher.allowed()
        token = choose(logits_V, request, self.generator, self.answer, grammar_V)
        if token is None:  # its grammar lets none of its allowed ids come
            return TokenEvent(request.request_id, (), "error", "no id may come next")
        self.answer.append(token)
        finish = finish_of(request, self.answer)
        if self.matcher is not None:
            self.matcher.accept(token)
            finish = "stop" if self.matcher.ended else finish
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.logprobs is not None:
            logprobs = (logprob_of(logits_V, token, request.logprobs),)
        return TokenEvent(request.request_id, (token,), finish, logprobs=logprobs)


def choose(
    logits_V: NDArray[np.float32],
    request: GenerateRequest,
    generator: np.random.Generator,
    answer: Sequence[int] = (),
    grammar_V: NDArray[np.bool_] | None = None,
) -> int | None:
    """The next id of a request after its answer so far, among those it and its grammar allow.

    None if they allow none.
    """
    weighed_V = _weighed(logits_V, request, answer)
    allowed: NDArray[np.int64] | None = None
    if request.allowed_ids is not None:
        allowed = np.asarray([*dict.fromkeys(request.allowed_ids)], np.int64)  # each weighs once
    if grammar_V is not None:
        allowed = np.flatnonzero(grammar_V) if allowed is None else allowed[grammar_V[allowed]]
    if allowed is not None:
        if not len(allowed):
            return None
        weighed_V = weighed_V[allowed]
    number = sample(
        weighed_V, request.temperature, request.top_p, generator, request.top_k, request.min_p
    )
    return number if allowed is None else int(allowed[number])


def _weighed(
    logits_V: NDArray[np.float32], request: GenerateRequest, answer: Sequence[int]
) -> NDArray[np.float32]:
    """Logits with the request's bias and penalties."""
    penalties = (request.presence_penalty, request.frequency_penalty)
    if not (request.logit_bias or any(penalties) or request.repetition_penalty != 1):
        return logits_V
    weighed_V = logits_V.copy()
    for number, bias in request.logit_bias:
        weighed_V[number] += bias
    if request.repetition_penalty != 1:  # Keskar et al. 2019
        seen = np.unique(np.asarray([*request.prompt_ids, *answer], np.int64))
        values = weighed_V[seen]
        penalty = np.float32(request.repetition_penalty)
        weighed_V[seen] = np.where(values > 0, values / penalty, values * penalty)
    if answer and any(penalties):
        said, counts = np.unique(np.asarray(answer, np.int64), return_counts=True)
        presence, frequency = (np.float32(value) for value in penalties)
        weighed_V[said] -= presence + frequency * counts.astype(np.float32)
    return weighed_V


def finish_of(request: GenerateRequest, answer: Sequence[int]) -> Literal["stop", "length"] | None:
    """Why an answer ends with its last id; None: it goes on."""
    if answer[-1] in request.stop_ids:
        return "stop"
    return "length" if len(answer) >= request.max_tokens else None


def logprob_of(logits_V: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprob:
    """The log-probability of an id in nats, and the num_top best ones, lower ids first in a tie."""
    wide_V = logits_V.astype(np.float64)
    wide_V -= wide_V.max()
    wide_V -= np.log(np.exp(wide_V).sum())
    num_top = min(num_top, len(wide_V))
    best: NDArray[np.int64] = np.zeros(0, np.int64)
    if num_top:
        least = np.partition(wide_V, -num_top)[-num_top]
        best = np.flatnonzero(wide_V >= least)
        best = best[np.argsort(-wide_V[best], kind="stable")][:num_top]
    top = tuple((int(number), float(wide_V[number])) for number in best)
    return TokenLogprob(token_id, float(wide_V[token_id]), top)


def sample(
    logits_K: NDArray[np.float32],
    temperature: float,
    top_p: float,
    generator: np.random.Generator,
    top_k: int = 0,
    min_p: float = 0.0,
) -> int:
    """The place of the next id: the best one where nothing is drawn, else one of the top_k best
    (0: of all), of the smallest set of them whose probabilities add up to top_p (Holtzman et al.
    2020), and of those at least min_p times as probable as the best (Nguyen et al. 2024)."""
    if is_greedy(temperature):
        return int(logits_K.argmax())
    scaled = logits_K.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    order = order[:top_k] if top_k > 0 else order
    weights = weights[order] / weights[order].sum()
    kept = np.ones(len(order), np.bool_)
    if top_p < 1:
        kept = np.cumsum(weights) - weights < top_p
    kept &= weights >= min_p * weights[0]
    kept[0] = True
    weights = weights[kept] / weights[kept].sum()
    return int(generator.choice(order[kept], p=weights))
