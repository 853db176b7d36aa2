"""The reference engine: plain torch, one request at a time within a step, correct before fast.

Axes: B rows, Q questions, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.core.scoring import Continuations, Scores
from whorl.engines.branches import CandidateScorer
from whorl.engines.grammar import UNABLE, Grammars
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.sampling import Drawing, Matcher
from whorl.engines.serial import SerialStepper
from whorl.engines.setup import EngineSetup
from whorl.model.cached import GrowingCache, next_logits
from whorl.model.hf import load_model_folder
from whorl.model.transformer import Transformer

__all__ = ["TorchStepper", "open_torch"]


def open_torch(folder: Path, setup: EngineSetup) -> EngineLoop:
    """An engine over an HF model folder in float32. Raises RecordError if it is damaged."""
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    model, shape, tokens, card = load_model_folder(folder)
    limits = Limits(setup.max_running, shape.max_seq_len, shape.vocab_size, candidates_beside=True)
    grammars = Grammars(tokens)
    stepper = TorchStepper(model, grammars)
    return EngineLoop("torch", card.contract_digest, stepper, limits, UNABLE, grammars.check)


@dataclass
class _Running(Drawing):
    cache: GrowingCache = field(default_factory=GrowingCache)


class TorchStepper(SerialStepper[_Running]):
    """loop.Stepper over a Transformer."""

    def __init__(self, model: Transformer, grammars: Grammars | None = None) -> None:
        super().__init__(grammars)
        self._model = model.float().eval()
        self._candidates = CandidateScorer(_TorchBranches(self._model))

    def _begin(self, request: GenerateRequest, matcher: Matcher | None) -> _Running:
        return _Running(request, matcher)

    def _advance(self, running: _Running) -> TokenEvent:
        return running.draw(
            _last_logits(self._model, torch.tensor([list(running.unread)]), running.cache)[0]
        )

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        if questions[0].prefix:
            return self._candidates.score(questions)
        return [self.score(each.sequences) for each in questions]

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        if prefix:
            return self._candidates.score([Continuations(prefix, sequences)])[0]
        return [self._score(list(ids)) for ids in sequences]

    def _score(self, ids: list[int]) -> NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        with torch.inference_mode():
            logits = self._model.logits(self._model(torch.tensor([ids[:-1]])))[0]
            log_probs = torch.log_softmax(logits.double(), dim=-1)
            return log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


class _TorchBranches:
    """branches.Branches over a Transformer."""

    def __init__(self, model: Transformer) -> None:
        self._model, self._prefix = model, GrowingCache()

    def begin(self, ids_QT: NDArray[np.int64]) -> NDArray[np.float32]:
        self._prefix = GrowingCache()
        return _last_logits(self._model, torch.from_numpy(ids_QT), self._prefix)

    def follow(self, after_B: NDArray[np.int64], ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        cache = self._prefix.branches(torch.from_numpy(after_B))
        with torch.inference_mode():
            logits_BTV = next_logits(self._model, torch.from_numpy(ids_BT), cache)
        return np.asarray(logits_BTV.numpy(), np.float32)


def _last_logits(
    model: Transformer, ids_BT: torch.Tensor, cache: GrowingCache
) -> NDArray[np.float32]:
    """Append ids to cached sequences: logits [B, V] of what follows the last of each."""
    with torch.inference_mode():
        logits_BTV = next_logits(model, ids_BT, cache, only_last=True)
    return np.asarray(logits_BTV[:, -1].numpy(), np.float32)
