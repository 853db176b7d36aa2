"""Who took what, in the order of time: which item comes next?

Each user's last item is held out, and learned is what comes after what in the rest. Ranked are all
items that the user has not had. Items of one moment stay in the order of the file: where many
share a time, another order gives other last items, and other figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.core.errors import DataError
from whorl.core.intervals import score_of
from whorl.core.metrics import HITS_AT_10, NDCG_AT_10
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.ranking import RankTask, measures_of_ranks, rank_of
from whorl.fields.places import Places, Reject
from whorl.fields.rating_files import SUFFIXES, ratings_of
from whorl.fields.recommenders import History, recommenders
from whorl.fields.whole import begins, copies_of, files_of, number_of, whole_items

__all__ = ["FIELD", "InteractionsField"]

ITEM, END = "item", "<|end|>"
METRICS = (HITS_AT_10, NDCG_AT_10)
TASK = RankTask(metric=METRICS[0], further=METRICS[1:])
WANTED_ITEMS, MOST_COPIES = 1_600_000, 24  # where a recipe says no number of copies
MAX_DROPPED = 0.6  # of the items of a copy, at most; each copy draws its own share


@dataclass(frozen=True)
class InteractionsField:
    """One document per user, copy and `window` of items; one per last item that is asked for."""

    name: str = "interactions"
    task: Task = TASK
    logic_version: int = 1
    options: Mapping[str, str] = field(
        default_factory=lambda: {"window": "50", "copies": "auto", "seed": "0"}
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no such file."""
        return list(whole_items(source, SUFFIXES))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if no user has two items, SpecError on options that are no numbers."""
        if not begins(source, SUFFIXES, item, reject):
            return
        options = {**self.options, **source.options}
        window, seed = number_of(options, "window", 2), number_of(options, "seed")
        histories = _histories(source, reject)
        copies = copies_of(options, sum(map(len, histories.values())), WANTED_ITEMS, MOST_COPIES)
        learned = {item for history in histories.values() for item in history[:-1]}
        for number, (user, history) in enumerate(histories.items()):
            *known, last = history
            for copy in range(copies):
                rng = np.random.default_rng([seed, copy, number])
                for start, items in _windows(known, window, copy, rng):
                    yield Document(f"{user}~{copy}@{start}", tuple(_parts(items)), "train")
            if last in learned:
                yield Document(user, _question(known, last, window), "heldout")
            else:
                reject("last item that no other user has before: not asked")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """The vocabulary of items."""
        return {
            ITEM: LabelCodec.fit(
                (part.value for document in documents for part in document.parts), ITEM
            )
        }

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Popularity, item neighbours, EASE and a Markov chain of what the asked users had."""
        asked = [_asked(document) for document in heldout]
        items = sorted({item for known, right in asked for item in (*known, right)})
        places = {item: place for place, item in enumerate(items)}
        histories: list[History] = [[places[item] for item in known] for known, _ in asked]
        names = [document.name for document in heldout]
        found = []
        for method, score in recommenders(histories, len(items)):
            ranks = [
                rank_of(score(history), places[right], history)
                for history, (_, right) in zip(histories, asked, strict=True)
            ]
            found += [score_of(method, each) for each in measures_of_ranks(names, ranks, METRICS)]
        return found


def _histories(source: Source, reject: Reject) -> dict[str, list[str]]:
    """user -> items by time. Raises DataError if nobody has two."""
    taken: dict[str, dict[str, tuple[float, str]]] = {}
    for file in files_of(source, SUFFIXES):
        places = Places.of(file, reject)
        for user, item, time_s in ratings_of(file, places):
            had = taken.setdefault(user, {})
            if item in had:
                places.refuse("item that the user has already", "the first one is kept")
            else:
                had[item] = (0.0 if time_s is None else time_s, item)
    found = {}
    for user, had in taken.items():
        if len(had) < 2:
            reject("user with a single item: nothing comes after it")
        else:  # sorted keeps the order of the file where times are equal
            found[user] = [item for _, item in sorted(had.values(), key=itemgetter(0))]
    if not found:
        raise DataError(
            f"source {source.source} has no user with two items",
            found=f"{len(taken)} users",
            expected="rows of user, item, rating and time",
        )
    return found


def _windows(
    known: Sequence[str], window: int, copy: int, rng: np.random.Generator
) -> Iterator[tuple[int, list[str]]]:
    """(place, items) of a history in pieces: as it is in copy 0, in others without some items."""
    items, start = list(known), 0
    if copy:
        kept = rng.random(len(items)) >= rng.uniform(0, MAX_DROPPED)
        items = [item for item, keep in zip(items, kept.tolist(), strict=True) if keep]
        start = -int(rng.integers(window))
    for begin in range(start, len(items), window):
        if piece := items[max(0, begin) : begin + window]:
            yield begin, piece


def _parts(items: Iterable[str], trained: bool = True) -> Iterator[Part]:
    return (Part(ITEM, item, trained) for item in items)


def _question(known: Sequence[str], last: str, window: int) -> tuple[Part, ...]:
    """What the user had of late, the answer, and behind a mark all that the user had."""
    before = _parts(known[max(0, len(known) - window + 1) :], trained=False)
    mark = Part("special", END, trained=False)
    return (*before, Part(ITEM, last), mark, *_parts(known, trained=False))


def _asked(document: Document) -> tuple[list[str], str]:
    """(all that the user had, the right item) of a question's document."""
    marks = [place for place, part in enumerate(document.parts) if part.value == END]
    at = marks[0]
    known = [part.value for part in document.parts[at + 1 :] if part.codec == ITEM]
    return known, document.parts[at - 1].value


FIELD = InteractionsField()
