"""The reference engine: plain torch, one request at a time within a step, correct before fast.

Axes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.loop import EngineLoop, Limits
from whorl.model.cached import GrowingCache, next_logits
from whorl.model.hf import load_model_folder
from whorl.model.transformer import Transformer

__all__ = ["TorchStepper", "open_torch", "sample"]


def open_torch(folder: Path, max_running: int) -> EngineLoop:
    """An engine over an HF model folder in float32. Raises RecordError if it is damaged."""
    model, shape, _, card = load_model_folder(folder)
    limits = Limits(max_running, shape.max_seq_len, shape.vocab_size)
    return EngineLoop("torch", card.contract_digest, TorchStepper(model), limits)


@dataclass
class _Running:
    request: GenerateRequest
    cache: GrowingCache = field(default_factory=GrowingCache)
    answer: list[int] = field(default_factory=list)
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.request.seed)


class TorchStepper:
    """loop.Stepper over a Transformer."""

    def __init__(self, model: Transformer) -> None:
        self._model = model.float().eval()
        self._running: dict[str, _Running] = {}

    def add(self, request: GenerateRequest) -> bool:
        self._running[request.request_id] = _Running(request)
        return True

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        events = [self._advance(running) for running in self._running.values()]
        for event in events:
            if event.finish_reason is not None:
                del self._running[event.request_id]
        return events

    def _advance(self, running: _Running) -> TokenEvent:
        request = running.request
        new = running.answer[-1:] or list(request.prompt_ids)
        with torch.inference_mode():
            logits_V = next_logits(self._model, new, running.cache)[-1].numpy()
        token = sample(logits_V, request.temperature, request.top_p, running.generator)
        running.answer.append(token)
        if token in request.stop_ids:
            return TokenEvent(request.request_id, (token,), "stop")
        at_limit = len(running.answer) >= request.max_tokens
        return TokenEvent(request.request_id, (token,), "length" if at_limit else None)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        return [self._score(list(ids)) for ids in sequences]

    def _score(self, ids: list[int]) -> NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        with torch.inference_mode():
            logits = self._model.logits(self._model(torch.tensor([ids[:-1]])))[0]
            log_probs = torch.log_softmax(logits.double(), dim=-1)
            return log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()

    def close(self) -> None:
        self._running.clear()


def sample(
    logits_V: NDArray[np.float32],
    temperature: float,
    top_p: float,
    generator: np.random.Generator,
) -> int:
    """The next id: the best one at temperature 0, else drawn from the smallest set of ids whose
    probabilities add up to top_p (Holtzman et al. 2020)."""
    if temperature <= 0:
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
