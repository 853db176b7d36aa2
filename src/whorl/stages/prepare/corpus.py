"""All documents that the first pass left: their facts in memory, their text on disk."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.order import splitmix64
from whorl.core.ports import Document, Part
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare import split
from whorl.stages.prepare.clean import SPLITS, Cleaned
from whorl.stages.prepare.comparable import comparable, letters
from whorl.stages.prepare.dedup import Duplicates, find_duplicates
from whorl.stages.prepare.shingles import distinct_windows
from whorl.stages.prepare.spill import SpillReader

__all__ = ["Corpus", "Training", "TrainingDocuments"]

BLOCK_BYTES = 2**16  # of a text that is sampled
CACHED_DOCUMENTS = 64  # whose windows are kept while near duplicates are verified
BYTES_PER_TOKEN = 4  # assumed when a validation row's worth of text is held out
FREE_SPLIT = SPLITS.index(None)


@dataclass
class Corpus:
    """Documents 0..n-1 in the order of sources, items and rows; arrays are [n]."""

    parts: Sequence[Cleaned]

    def __post_init__(self) -> None:
        counts = [len(part.num_bytes) for part in self.parts]
        self.firsts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
        self.source = np.repeat([part.source_number for part in self.parts], counts)
        self.digests = np.concatenate([part.digests for part in self.parts])
        self.num_bytes = np.concatenate([part.num_bytes for part in self.parts])
        self.is_text = np.concatenate([part.is_text for part in self.parts])
        self.split = np.concatenate([part.split for part in self.parts])

    def __reduce__(self) -> tuple[type[Corpus], tuple[Sequence[Cleaned]]]:
        return Corpus, (self.parts,)  # to a worker: its arrays are those of the parts

    def __len__(self) -> int:
        return len(self.num_bytes)

    def codecs_of_source(self, source: int) -> frozenset[str]:
        """Names of the codecs that the documents of a source use."""
        mine = [part.codecs for part in self.parts if part.source_number == source]
        return frozenset().union(*mine)

    def document(self, number: int) -> Document:
        part = int(np.searchsorted(self.firsts, number, side="right")) - 1
        cleaned = self.parts[part]
        with SpillReader(cleaned.path, cleaned.offsets) as reader:
            return reader.document(number - int(self.firsts[part]))

    def duplicates(self, min_jaccard: float) -> Duplicates:
        """Exact copies of all documents, near copies among texts."""

        @functools.lru_cache(maxsize=CACHED_DOCUMENTS)
        def windows_of(number: int) -> NDArray[np.uint64]:
            return distinct_windows(letters(comparable(self.document(number).text or "")))

        digests = np.ascontiguousarray(self.digests)
        return find_duplicates(
            digests.view(np.dtype((np.void, digests.shape[1]))).ravel(),
            np.concatenate([part.bands for part in self.parts]),
            np.concatenate([part.has_windows for part in self.parts]) & self.is_text,
            self.split == SPLITS.index("heldout"),
            min_jaccard,
            windows_of,
        )

    def choose(self, kept: NDArray[np.bool_], config: PrepareConfig) -> NDArray[np.int8]:
        """What becomes of each document (split.TRAIN …).

        Raises DataError if there is nothing to train on or nothing to hold out.
        """
        actions = np.full(len(self), split.DROPPED, np.int8)
        actions[kept & (self.split == SPLITS.index("train"))] = split.TRAIN
        actions[kept & (self.split == SPLITS.index("heldout"))] = split.HELDOUT
        for source in np.unique(self.source):
            free = np.flatnonzero(kept & (self.source == source) & (self.split == FREE_SPLIT))
            if not len(free):
                continue
            all_text = bool(self.is_text[free].all())
            actions[free] = split.choose_heldout(
                split.SourceDocuments(
                    split.split_hashes(self.digests[free], config.seed), self.num_bytes[free]
                ),
                config.heldout_share,
                self.wanted_bytes(config) if all_text else 0,
                len(free) == 1 and self._can_cut(int(free[0])),
            )
        for action, name in ((split.TRAIN, "train on"), (split.HELDOUT, "hold out")):
            if not np.isin(actions, (action, split.CUT)).any():
                raise DataError(
                    f"there is no document to {name}",
                    found=f"{int(kept.sum())} usable documents, all with a fixed split",
                    do="give the source documents of both splits, or of none",
                )
        return actions

    def wanted_bytes(self, config: PrepareConfig) -> int:
        """Text held out, if there is enough, for one validation row."""
        return BYTES_PER_TOKEN * (config.seq_len + 1)

    def cut_share(self, actions: NDArray[np.int8], config: PrepareConfig) -> float:
        """The part held out of texts that are cut."""
        cut_bytes = int(self.num_bytes[actions == split.CUT].min(initial=2**62))
        return max(config.heldout_share, self.wanted_bytes(config) / cut_bytes)

    def _can_cut(self, number: int) -> bool:
        document = self.document(number)
        trained = all(part.trained for part in document.parts)
        return document.text is not None and len(document.text) > 1 and trained


@dataclass(frozen=True)
class TrainingDocuments:
    """Training documents of some sources, in order, as often as they are asked for.

    At most about max_bytes of them: beyond that a sample, of short texts and other documents whole
    ones, those whose digest is lowest, of long texts blocks, so that none is all there is.
    """

    corpus: Corpus
    actions: NDArray[np.int8]
    sources: frozenset[int]
    cut_share: float
    max_bytes: int

    def __iter__(self) -> Iterator[Document]:
        corpus = self.corpus
        wanted = np.isin(corpus.source, list(self.sources))
        wanted &= np.isin(self.actions, (split.TRAIN, split.CUT))
        if not wanted.any():
            return
        limit = 2.0**64 * self.max_bytes / max(1, int(corpus.num_bytes[wanted].sum()))
        ranks = corpus.digests[:, :8].copy().view("<u8").ravel()
        is_long = corpus.is_text & (corpus.num_bytes > BLOCK_BYTES) & (limit < 2.0**64)
        chosen = wanted & (is_long | (ranks.astype(np.float64) < limit))
        lowest = int(np.argmin(np.where(wanted, ranks, np.uint64(2**64 - 1))))
        chosen[lowest] = True  # at least something of it, however large it is
        for place, cleaned in enumerate(corpus.parts):
            first = int(corpus.firsts[place])
            mine = np.flatnonzero(chosen[first : int(corpus.firsts[place + 1])])
            if not len(mine):
                continue
            with SpillReader(cleaned.path, cleaned.offsets) as reader:
                for number in mine.tolist():
                    document, at = reader.document(number), first + number
                    if self.actions[at] == split.CUT:
                        document, _ = split.cut_document(document, self.cut_share)
                    if is_long[at]:
                        yield from _blocks(document, ranks[at], limit, at == lowest)
                    else:
                        yield document


def _blocks(
    document: Document, rank: np.uint64, limit: float, with_first: bool
) -> Iterator[Document]:
    """Blocks of a text whose rank is below a limit; the first has the document's own."""
    text = document.text or ""
    count = max(1, -(-len(text.encode()) // BLOCK_BYTES))
    chosen = (rank ^ splitmix64(np.arange(count, dtype=np.uint64))).astype(np.float64) < limit
    chosen[0] |= with_first
    for number in np.flatnonzero(chosen).tolist():
        part = text[len(text) * number // count : len(text) * (number + 1) // count]
        yield Document(document.name, (Part("text", part),))


@dataclass(frozen=True)
class Training:
    """What is trained on: of a corpus the documents and parts whose action says so."""

    corpus: Corpus
    actions: NDArray[np.int8]
    cut_share: float

    def documents(self, sources: frozenset[int], max_bytes: int) -> TrainingDocuments:
        return TrainingDocuments(self.corpus, self.actions, sources, self.cut_share, max_bytes)
