"""A frozen model that is asked about rows, each once, while another one learns from what it says.

Axes: B rows, T tokens of a row, N trained tokens, D width, K likeliest ids.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from whorl.codecs.contract import TokenContract
from whorl.core.disk import disk_error
from whorl.core.errors import SpecError
from whorl.model.attend import segments_of
from whorl.model.hf import load_model_folder
from whorl.model.transformer import Transformer
from whorl.stages.train.batch import Batch, MicroBatch, Taught

__all__ = ["SaidTable", "Teacher", "load_teacher"]

CHUNK_TOKENS = 256  # whose logits over the vocabulary are in memory at once
SAID_BYTES = 6  # of each id that is said: a whole number of 4 bytes, a log-probability of 2
MOST_BYTES = 8 * 2**30  # of a table: 45 million trained tokens with 32 ids each


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


class SaidTable:
    """What a teacher said of rows, in a file without a name in a folder: gone with its process.

    Memory holds where each row stands, no more. At most MOST_BYTES are written, and by all tables
    together half of what is free on that disk; rows beyond that are asked about again, and say the
    same.
    """

    def __init__(self, folder: Path, num_tables: int = 1) -> None:
        """num_tables: of all processes that write into the folder, this one included."""
        self.folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with this table)
            weakref.finalize(self, self._file.close)
            self.room = min(MOST_BYTES, shutil.disk_usage(folder).free // (2 * num_tables))
        except OSError as error:
            raise disk_error(error, folder) from error
        self._places: dict[int, tuple[int, int, int]] = {}  # row -> (first byte, N, K)

    def find(self, row: int) -> tuple[Tensor, Tensor] | None:
        """(ids, log-probabilities), [N, K] each."""
        if row not in self._places:
            return None
        begin, count, width = self._places[row]
        self._file.seek(begin)
        data = bytearray(self._file.read(count * width * SAID_BYTES))
        if not data:
            return torch.empty(0, width, dtype=torch.int), torch.empty(0, width).half()
        ids = torch.frombuffer(data, dtype=torch.int, count=count * width)
        logprobs = torch.frombuffer(data, dtype=torch.half, offset=count * width * ids.itemsize)
        return ids.view(count, width), logprobs.view(count, width)

    def keep(self, row: int, ids_NK: Tensor, logprobs_NK: Tensor) -> None:
        """Raises ResourceError if the disk takes no more after all."""
        size = ids_NK.numel() * SAID_BYTES
        if size > self.room:
            return
        try:
            begin = self._file.seek(0, os.SEEK_END)
            for part in (ids_NK, logprobs_NK):
                self._file.write(part.cpu().numpy().tobytes())
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.folder, size) from error
        self._places[row] = (begin, *ids_NK.shape)
        self.room -= size


@dataclass
class Teacher:
    """A model, and what it said of rows that were met before."""

    model: Transformer
    top_k: int
    said: SaidTable = field(repr=False)

    def beside(self, batch: Batch) -> Batch:
        """The batch with what the teacher says of its trained tokens.

        Every row is read alone, so that it is told the same whatever rows it stands among.
        """
        micros = tuple(replace(micro, taught=self._taught(micro)) for micro in batch.micro_batches)
        return replace(batch, micro_batches=micros)

    def _taught(self, micro: MicroBatch) -> Taught:
        found = [self._of_row(micro, place) for place in range(len(micro.row_numbers))]
        ids, logprobs = (torch.cat(parts) for parts in zip(*found, strict=True))
        device = micro.ids_BT.device
        return Taught(ids.to(device).long(), logprobs.to(device).float())

    def _of_row(self, micro: MicroBatch, place: int) -> tuple[Tensor, Tensor]:
        row = int(micro.row_numbers[place])
        if (kept := self.said.find(row)) is not None:
            return kept
        ids_NK, logprobs_NK = (part.cpu() for part in self._read(micro, place))
        self.said.keep(row, ids_NK, logprobs_NK)
        return ids_NK, logprobs_NK

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
