"""Counting what is refused or mended, each time with the place that is being read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from whorl.core.encodings import guessed
from whorl.core.reasons import Kind, Place, Reason
from whorl.core.sources import PASSED_OVER, FileItem

__all__ = ["KeptReasons", "Places", "Reject"]

Reject = Callable[[str], None]
MOST_PLACED = 100  # reasons of the same words that keep their places until they are told


@dataclass
class Places:
    """A `reject` that knows where the reader is: the line, from 1 on, of the part that is read.

    offset_bytes: where line 1 begins in the plain file.
    """

    item: FileItem
    reject: Reject
    line: int | None = None
    column: int | None = None
    offset_bytes: int = 0
    _not_utf8: tuple[str, str] | None = None  # guessed once, of the first bytes that are not

    @classmethod
    def of(cls, item: FileItem, reject: Reject) -> Places:
        return reject if isinstance(reject, cls) else cls(item, reject)

    def __call__(self, reason: str) -> None:
        self.refuse(reason)

    def at(self, line: int | None, column: int | None = None) -> Places:
        self.line, self.column = line, column
        return self

    def refuse(self, words: str, hint: str = "") -> None:
        """A row, piece or file that is not read."""
        self.reject(Reason(words, "refused", self._place(), hint))

    def mend(self, words: str) -> None:
        """Something that is read, though it was written otherwise than it should be."""
        self.reject(Reason(words, "mended", self._place()))

    def tell(self, words: str) -> None:
        """What something that is read was taken for."""
        self.reject(Reason(words, "read", self._place()))

    def refuse_bytes(self, data: bytes) -> None:
        """Text that is not UTF-8."""
        self._not_utf8 = self._not_utf8 or guessed(data)
        self.refuse(*self._not_utf8)

    def refuse_item(self) -> None:
        """The reason of an item that is not read."""
        kind: Kind = "passed over" if self.item.kind == PASSED_OVER else "refused"
        reason = Reason(self.item.reason, kind, Place(self.item.name), self.item.hint)
        for _ in range(self.item.count):
            self.reject(reason)

    def _place(self) -> Place:
        item = self.item
        path = item.path if self.offset_bytes else ""
        return Place(item.name, self.line, self.column, path, self.offset_bytes)


@dataclass
class KeptReasons:
    """A `reject` that keeps what it is told for later, in little memory: of each reason the first
    MOST_PLACED with their places, of further ones how many there are."""

    first: dict[str, list[str]] = field(default_factory=dict)
    more: Counter[str] = field(default_factory=Counter)

    def __call__(self, reason: str) -> None:
        kept = self.first.setdefault(str(reason), [])
        if len(kept) < MOST_PLACED:
            kept.append(reason)
        else:
            self.more[str(reason)] += 1

    def __iter__(self) -> Iterator[str]:
        """Each as often as it was told, further ones with the place of the last that has one."""
        for words, kept in self.first.items():
            yield from kept
            for _ in range(self.more[words]):
                yield kept[-1]
