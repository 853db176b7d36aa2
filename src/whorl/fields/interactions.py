"""Who took what, in the order of time: which item comes next?

Each user's last item is held out, and learned is what comes after what in the rest. Ranked are all
items that the user has not had. Items of one moment stay in the order of the file: where many
share a time, another order gives other last items, and other figures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.core.errors import DataError, SpecError
from whorl.core.intervals import score_of
from whorl.core.metrics import HITS_AT_10, NDCG_AT_10
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.ranking import RankTask, measures_of_ranks, rank_of
from whorl.core.sources import FileItem
from whorl.fields.files import EXCLUDED, file_items
from whorl.fields.places import Places, Reject
from whorl.fields.rating_files import NAMES_SUFFIXES, SUFFIXES, ratings_of, titles_of
from whorl.fields.recommenders import History, recommenders
from whorl.fields.whole import begins, copies_of, files_of, number_of, tell_copies, whole_items

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
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {"window": "50", "copies": "auto", "names": "", "seed": "0"}
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no such file, or no file of names
        is beside it."""
        return [*whole_items(source, SUFFIXES, _excluded(source)), *_names_files(source)]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if no user has two items, SpecError on options that are no numbers."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        window, seed = number_of(options, "window", 2), number_of(options, "seed")
        histories = _named(source, _histories(source, reject), Places.of(item, reject))
        copies = copies_of(options, sum(map(len, histories.values())), WANTED_ITEMS, MOST_COPIES)
        tell_copies(Places.of(item, reject), len(histories), "users", copies)
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
        """Popularity, item neighbours, EASE and a Markov chain of all that was trained on.

        Ranked are all items of it, as a model ranks its vocabulary.
        """
        asked = [_asked(document) for document in heldout]
        whole = [tuple(mine) for mine, _ in asked]
        known = Counter(_rebuilt(train, whole)) | Counter(whole)
        items = sorted({item for mine in known for item in mine} | {right for _, right in asked})
        places = {item: place for place, item in enumerate(items)}
        histories: list[History] = [[places[item] for item in mine] for mine in known.elements()]
        questions = [([places[item] for item in mine], places[right]) for mine, right in asked]
        names = [document.name for document in heldout]
        found = []
        for method, score in recommenders(histories, len(items)):
            ranks = [rank_of(score(mine), right, mine) for mine, right in questions]
            found += [score_of(method, each) for each in measures_of_ranks(names, ranks, METRICS)]
        return found


def _excluded(source: Source) -> Sequence[str]:
    """What is not read as ratings: the file of names neither."""
    name = source.options.get("names", "")
    return (*EXCLUDED, name) if name else EXCLUDED


def _names_files(source: Source) -> list[FileItem]:
    """The file beside the source, or in it, that says what items are called; [] if none does.

    Raises DataError if it is not there, SpecError if it would be elsewhere.
    """
    name = source.options.get("names", "")
    if not name:
        return []
    if os.path.basename(name) != name:
        expected = "the name of a file beside the data"
        raise SpecError("data.options.names is no such name", found=name, expected=expected)
    folder = source.path if os.path.isdir(source.path) else os.path.dirname(source.path)
    beside = replace(source, source=os.path.join(folder, name))
    return file_items(beside, NAMES_SUFFIXES, EXCLUDED)


def _named(
    source: Source, histories: Mapping[str, Sequence[str]], places: Places
) -> Mapping[str, Sequence[str]]:
    """Items with their names behind them, `50 Star Wars`, so that the order of the vocabulary, and
    with it what is learned, stays as it is without names."""
    files = _names_files(source)
    if not files:
        return histories
    titles: dict[str, str] = {}
    for file in files:
        titles = titles_of(file, Places(file, places.reject)) | titles
    missing = {item for history in histories.values() for item in history} - titles.keys()
    if missing:
        places.tell(f"{len(missing):,} items without a name in {source.options['names']}")
    return {
        user: [f"{item} {titles[item]}" if item in titles else item for item in history]
        for user, history in histories.items()
    }


def _histories(source: Source, reject: Reject) -> dict[str, list[str]]:
    """user -> items by time; by the order of the files if no row has one.

    Raises DataError if nobody has two.
    """
    taken: dict[str, dict[str, tuple[float, str]]] = {}
    files = files_of(source, SUFFIXES, _excluded(source))
    is_timed = any(
        time_s is not None
        for file in files
        for *_, time_s in ratings_of(file, Places(file, lambda reason: None))
    )
    for file in files:
        places = Places.of(file, reject)
        for user, item, time_s in ratings_of(file, places):
            if is_timed and time_s is None:
                places.refuse("row without a time among rows that have one")
                continue
            had, moment_s = taken.setdefault(user, {}), time_s or 0.0
            if item in had:
                places.refuse("item that the user has already", "the first in time is kept")
                if had[item][0] <= moment_s:
                    continue
                del had[item]  # its place among items of one moment is that of its row
            had[item] = moment_s, item
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


def _rebuilt(
    train: Iterable[Document], asked: Iterable[tuple[str, ...]]
) -> Iterator[tuple[str, ...]]:
    """Histories of documents in the order of `read`, without their names; those asked are known.

    First come the full windows of a history and its rest, which share no item; then its copies, all
    of whose items it has, in their order. One whose first document is missing may not be found, and
    one that is not asked and misses a later document may come in parts.
    """
    pieces = [
        piece
        for document in train
        if (piece := tuple(part.value for part in document.parts if part.codec == ITEM))
    ]
    window = max(map(len, pieces), default=0)
    by_start = {mine[:window]: mine for mine in asked}
    history: dict[str, int] = {}  # item -> its place
    is_whole = True
    for piece in pieces:
        found = [history.get(item, -1) for item in piece]
        if min(found) >= 0 and found == sorted(found):
            is_whole = True
            continue
        known = by_start.get(piece, ())
        if known or is_whole or max(found) >= 0:
            if history:
                yield tuple(history)
            history = {}
        for item in known or piece:
            history[item] = len(history)
        is_whole = bool(known) or len(piece) < window
    if history:
        yield tuple(history)


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
