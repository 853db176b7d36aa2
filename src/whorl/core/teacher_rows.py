"""A teacher's likeliest ids beside token rows: what distillation learns from.

    teacher.json            {"top_k": k, "teacher": digest of its weights, "shards": […]}
    rows/train-00000.teacher  for each trained position of the shard's rows, in their order, one
                            entry of `teacher_dtype(k)`, little endian; one file for each shard
    heldout/heldout.teacher the same of the held-out rows

Log-probabilities are natural, at temperature 1, over the whole vocabulary, the likeliest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from whorl.core.errors import RecordError
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.core.validation import first_problem

__all__ = ["TEACHER_INDEX", "TeacherIndex", "TeacherRows", "teacher_dtype", "teacher_file"]

TEACHER_INDEX = "teacher.json"


def teacher_dtype(top_k: int) -> np.dtype[Any]:
    """One trained position: ids [k] and their log-probabilities [k]."""
    return np.dtype([("ids", "<i4", (top_k,)), ("logprobs", "<f2", (top_k,))])


def teacher_file(shard: str) -> str:
    """Where the teacher's entries of a shard of rows are."""
    return str(PurePosixPath(shard).with_suffix(".teacher"))


class TeacherIndex(BaseModel):
    """The content of teacher.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int
    teacher: str = ""  # digest of the model that said it


@dataclass(frozen=True)
class TeacherRows:
    """Entries of the rows of a RowSet, mapped from disk."""

    top_k: int
    shards: tuple[NDArray[Any], ...] = field(repr=False)
    firsts: tuple[NDArray[np.int64], ...] = field(repr=False)  # of a shard: each row's first entry

    @classmethod
    def of(cls, record: Record, rows: RowSet, files: tuple[str, ...]) -> TeacherRows:
        """files: of the shards of rows. Raises RecordError if there are none, or others."""
        if TEACHER_INDEX not in record.files:
            raise RecordError(
                f"{record.path} holds no probabilities of a teacher",
                expected=f"{TEACHER_INDEX}, and entries beside every shard of rows",
                do="prepare with a teacher, or set another train.objective",
            )
        path = record.file(TEACHER_INDEX)
        try:
            top_k = TeacherIndex.model_validate_json(path.read_bytes()).top_k
        except ValidationError as error:
            raise RecordError(
                f"{path} is not an index of a teacher", found=first_problem(error)
            ) from error
        shards, firsts = [], []
        for name, shard in zip(files, rows.shards, strict=True):
            counts = np.bitwise_count(shard["loss_mask"]).sum(axis=1).astype(np.int64)
            first = np.concatenate(([0], np.cumsum(counts)))
            shards.append(_map(record, teacher_file(name), teacher_dtype(top_k), int(first[-1])))
            firsts.append(first)
        return cls(top_k, tuple(shards), tuple(firsts))

    def read(self, row_numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, log-probabilities), each [n, top_k], of the n trained positions of these rows."""
        ends = np.cumsum([len(first) - 1 for first in self.firsts])
        found = []
        for number in row_numbers:
            which = int(np.searchsorted(ends, number, side="right"))
            first = self.firsts[which]
            row = int(number - ends[which] + len(first) - 1)
            found.append(self.shards[which][first[row] : first[row + 1]])
        entries = np.concatenate(found)
        return entries["ids"].astype(np.int64), entries["logprobs"].astype(np.float32)


def _map(record: Record, name: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    path = record.file(name)
    if path.stat().st_size != count * dtype.itemsize:
        raise RecordError(
            f"{path} does not fit the rows beside it",
            found=f"{path.stat().st_size:,} bytes",
            expected=f"{count:,} trained positions of {dtype.itemsize:,} bytes",
        )
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)
