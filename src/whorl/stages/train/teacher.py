"""A frozen model that is asked about rows, each once, while another one learns from what it says.

Axes: B rows, T tokens of a row, N trained tokens, D width, K likeliest ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from whorl.codecs.contract import TokenContract
from whorl.core.errors import SpecError
from whorl.model.attend import segments_of
from whorl.model.hf import load_model_folder
from whorl.model.transformer import Transformer
from whorl.stages.train.batch import Batch, MicroBatch, Taught

__all__ = ["Teacher", "load_teacher"]

CHUNK_TOKENS = 256  # whose logits over the vocabulary are in memory at once


def load_teacher(folder: Path, contract: TokenContract, device: torch.device) -> Transformer:
    """A model folder's, every file verified. Raises SpecError if its tokens are others."""
    model, _, tokens, _ = load_model_folder(folder)
    if tokens.contract.digest != contract.digest:
        raise SpecError(
            "train.distil.teacher has other tokens than the model that learns from it",
            found=f"a contract {tokens.contract.digest[:16]}…",
            expected=f"{contract.digest[:16]}…, that of the prepared rows",
            do="choose a teacher of the same family, or that one as model.base too",
        )
    return model.to(device, torch.float32).requires_grad_(False)


@dataclass
class Teacher:
    """What it said of a row is kept in memory: 6 bytes for each id and trained token."""

    model: Transformer
    top_k: int
    said: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def beside(self, batch: Batch) -> Batch:
        """The batch with what the teacher says of its trained tokens.

        Every row is read alone, so that it is told the same whatever rows it stands among.
        """
        micros = tuple(replace(micro, taught=self._taught(micro)) for micro in batch.micro_batches)
        return replace(batch, micro_batches=micros)

    def _taught(self, micro: MicroBatch) -> Taught:
        for place, number in enumerate(micro.row_numbers):
            if int(number) not in self.said:
                self.said[int(number)] = self._read(micro, place)
        found = [self.said[int(number)] for number in micro.row_numbers]
        ids, logprobs = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Taught(ids.long(), logprobs.float())

    @torch.no_grad()
    def _read(self, micro: MicroBatch, place: int) -> tuple[Tensor, Tensor]:
        """(ids, log-probabilities), [N, K] each, the likeliest first, of one row."""
        ids_T, targets_T = micro.ids_BT[place], micro.targets_BT[place]
        starts_T = torch.zeros(len(ids_T), dtype=torch.bool)
        lengths = micro.segments.lengths
        if lengths is not None:
            ends = torch.tensor(lengths[place]).cumsum(0)[:-1]
            starts_T[ends] = True
        segments = segments_of(starts_T[None]).to(ids_T.device)
        hidden_ND = self.model(ids_T[None], segments)[0][targets_T >= 0]
        ids, logprobs = [], []
        for part in hidden_ND.split(CHUNK_TOKENS):
            scores = torch.log_softmax(self.model.logits(part), dim=-1)
            best = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
            ids.append(best.indices.int())
            logprobs.append(best.values.half())
        return torch.cat(ids), torch.cat(logprobs)
