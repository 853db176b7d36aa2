"""Encoded documents into the record: training rows, held-out rows and held-out documents."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.heldout import write_heldout
from whorl.core.ports import Source
from whorl.core.rows import RowsIndex, RowWriter, SourceRows, row_dtype
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.encode import Encoded, Segments

__all__ = ["Packer", "best_fit"]

TO_TRAIN = "mark the parts to be learned as trained; in a chat those are the assistant's turns"


class Packer:
    """Takes encoded documents in order; each source begins a row of its own."""

    def __init__(
        self, folder: Path, config: PrepareConfig, pad_id: int, sources: Sequence[Source]
    ) -> None:
        self.folder, self.config, self.sources = folder, config, sources
        shape = (config.seq_len, config.vocab_size, pad_id)
        self.train = RowWriter(folder, "rows/train", *shape, config.rows_per_shard)
        self.heldout = RowWriter(folder, "heldout/heldout", *shape, None)
        self.first_rows: list[int] = []  # per source met so far
        self.first_trained: list[int] = []
        self.first_rejected: dict[int, str] = {}  # source number -> a document and why
        self.longest = 0  # tokens of the longest chat that fits into no row
        self.names: list[str] = []
        self.fields: list[str] = []  # of the documents held out
        self.heldout_ids: list[NDArray[Any]] = []
        self.heldout_masks: list[NDArray[np.bool_]] = []
        self.heldout_bytes: list[int] = []
        self.all_text = True
        self.train_documents = self.train_tokens = self.train_bytes = 0

    def add(self, encoded: Encoded) -> None:
        """Append one task's documents; its chats together fill rows as well as they can.

        Of a pair the first answer alone is a held-out document, while rows hold both.
        """
        chats: list[Segments] = []
        while len(self.first_rows) <= encoded.source_number:
            self.train.end_row()
            self.first_rows.append(self.train.num_rows)
            self.first_trained.append(self.train.trained_tokens)
        if encoded.first_rejected:
            self.first_rejected.setdefault(encoded.source_number, encoded.first_rejected)
        self.longest = max(self.longest, encoded.longest)
        all_ids, all_masks = encoded.read()
        ends = np.cumsum(encoded.lengths)
        self.names += encoded.heldout_names
        field = self.sources[encoded.source_number].field
        self.fields += [field] * len(encoded.heldout_names)
        self.all_text &= bool(encoded.num_bytes.all())
        for number, end in enumerate(ends.tolist()):
            part = slice(end - int(encoded.lengths[number]), end)
            ids, mask, first = all_ids[part], all_masks[part], int(encoded.firsts[number])
            segments = [(ids[:first], mask[:first]), (ids[first:], mask[first:])]
            if encoded.is_heldout[number]:
                if first:
                    self.heldout.add_whole(segments)
                    ids, mask = segments[0]
                else:
                    self.heldout.add(ids, mask)
                self.heldout_ids.append(ids.copy())
                self.heldout_masks.append(mask.copy())
                self.heldout_bytes.append(int(encoded.num_bytes[number]))
                continue
            if first:
                chats.append(segments)
            else:
                self.train.add(ids, mask)
            self.train_documents += 1
            self.train_tokens += len(ids)
            self.train_bytes += int(encoded.num_bytes[number])
        lengths = [sum(len(ids) for ids, _ in segments) for segments in chats]
        for together in best_fit(lengths, self.config.seq_len + 1):
            self.train.end_row()
            for place in together:
                self.train.add_whole(chats[place])

    @property
    def remedy(self) -> str:
        """What would keep the chats that fit into no row; "" if there are none."""
        return f"train.seq_len={self.longest - 1} would keep all of them" if self.longest else ""

    def finish(self) -> dict[str, Any]:
        """Write what is left and the index; gives the metrics.

        Raises DataError if there is nothing to train on or to hold out, or none of a source.
        """
        self.train.close()
        self.heldout.close()
        self._check_trained()
        write_heldout(
            self.folder,
            self.names,
            self.heldout_ids,
            self.heldout_masks,
            self.heldout_bytes,
            self.fields,
        )
        index = RowsIndex(
            seq_len=self.config.seq_len,
            vocab_size=self.config.vocab_size,
            num_rows=self.train.num_rows,
            dtype=row_dtype(self.config.seq_len, self.config.vocab_size)["ids"].base.str,
            shards=tuple(self.train.shards),
            trained_tokens=self.train.trained_tokens,
            sources=self._sources(),
            heldout_rows=self.heldout.shards[0],
            heldout_trained_tokens=self.heldout.trained_tokens,
        )
        index.save(self.folder)
        heldout_tokens = sum(len(ids) for ids in self.heldout_ids)
        num_bytes = self.train_bytes + sum(self.heldout_bytes)
        return {
            "train_documents": self.train_documents,
            "train_tokens": self.train_tokens,
            "train_bytes": self.train_bytes,
            "trained_tokens": self.train.trained_tokens,
            "all_text": self.all_text,
            "train_rows": self.train.num_rows,
            "sources": [source.model_dump() for source in index.sources],
            "heldout_documents": len(self.names),
            "heldout_tokens": heldout_tokens,
            "heldout_bytes": sum(self.heldout_bytes),
            "heldout_rows": self.heldout.num_rows,
            "untrained_rows": self.train.untrained_rows + self.heldout.untrained_rows,
            "bytes_per_token": num_bytes / (self.train_tokens + heldout_tokens),
        }

    def _check_trained(self) -> None:
        """Raises DataError if there is nothing to train on or to hold out, or none of a source."""
        if not self.train.trained_tokens or not self.heldout.trained_tokens:
            found = f"{self.train.trained_tokens} and {self.heldout.trained_tokens} trained tokens"
            refused = "; ".join(self.first_rejected.values())
            raise DataError(
                "nothing is left to train on or to hold out after encoding",
                found=f"{found}; refused, first: {refused}" if refused else found,
                expected="at least one each",
                do=self.remedy or TO_TRAIN,
            )
        for number, rejected in self.first_rejected.items():
            if not self._trained_of_sources()[number]:
                raise DataError(
                    f"source {self.sources[number].source} has no trained token",
                    found=f"every document is refused, first: {rejected}",
                    do=self.remedy or TO_TRAIN,
                )

    def _trained_of_sources(self) -> list[int]:
        counts: list[int] = np.diff([*self.first_trained, self.train.trained_tokens]).tolist()
        return counts

    def _sources(self) -> tuple[SourceRows, ...]:
        """Raises DataError on a source with a share that has nothing left to train on."""
        rows = np.diff([*self.first_rows, self.train.num_rows]).tolist()
        trained = self._trained_of_sources()
        for number, source in enumerate(self.sources):
            if source.share is not None and not trained[number]:
                raise DataError(
                    f"source {source.source} has a share but nothing to train on",
                    found="no trained token after duplicates went and documents were held out",
                )
        return tuple(
            SourceRows(
                field=source.field,
                first_row=self.first_rows[number],
                num_rows=rows[number],
                trained_tokens=trained[number],
                share=source.share,
            )
            for number, source in enumerate(self.sources)
        )


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Places of `lengths`, at most room, in groups that each add up to at most room.

    The longest first, each where it leaves the least room: best fit decreasing.
    """
    groups: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (room left, group), ascending
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        at = bisect.bisect_left(left, (lengths[place], 0))
        if at == len(left):
            groups.append([])
            space, group = room, len(groups) - 1
        else:
            space, group = left.pop(at)
        groups[group].append(place)
        bisect.insort(left, (space - lengths[place], group))
    return groups
