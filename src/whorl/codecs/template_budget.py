"""What a rendering of a chat template may do, and what its filters and methods will make.

One budget of characters for turns, calls, and all that is read, made or compared.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import SecurityError

__all__ = [
    "BUDGET",
    "GROWING",
    "MAX_STRIPPED",
    "PLAIN",
    "TURN",
    "RenderBudget",
    "budget_for",
    "size_of",
]

MAX_CHARS = 2**20  # of any text or list a template makes, beside GROWTH times the chat's
GROWTH = 4
HANDLINGS = 64  # of the longest text: what a whole rendering may read, make and compare
TURN = 128  # what a turn or a call costs, in characters
ITEM = 16  # what an item of a list costs besides
MAX_BITS, MAX_STRIPPED, MAX_PRECISION = 4096, 64, 64
ITEMS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
PLAIN = (str, bytes, int, float, complex, list, tuple, set, frozenset, range, Mapping)


@dataclass
class RenderBudget:
    """What a rendering may still do, and the longest text it may make, in characters."""

    left: int
    longest: int

    def pay(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise SecurityError("it takes too many steps")

    def pay_deep(self, value: Any) -> None:
        """For all there is in a value, seen as often as it is met; stops where nothing is left."""
        todo = [value]
        while todo:
            value = todo.pop()
            self.pay(size_of(value))
            if isinstance(value, Mapping):
                todo += [*value.keys(), *value.values()]
            elif isinstance(value, ITEMS):
                todo += value

    def check(self, size: int) -> None:
        if size > self.longest:
            raise SecurityError(f"it makes a text of more than {self.longest:,} characters")

    def held(self, value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise SecurityError("it makes a number that is too large")
        if isinstance(value, str | bytes | list | tuple | range):
            self.check(len(value))
        self.pay(size_of(value))
        return value


BUDGET: ContextVar[RenderBudget] = ContextVar("budget")


def size_of(value: Any) -> int:
    """Of a value itself: characters, or items."""
    if isinstance(value, str | bytes):
        return ITEM + len(value)
    if isinstance(value, (*ITEMS, range, Mapping)):
        return ITEM * (1 + len(value))
    return ITEM


def _replaced_chars(text: Any, old: Any, new: Any, count: Any = None) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _joined_chars(items: Any, d: Any = "", attribute: Any = None) -> int:
    return len(items) * len(str(d))


def _indented_chars(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> int:
    return (1 + len(str(text).splitlines())) * (width if isinstance(width, int) else len(width))


def _stripped(text: Any, chars: Any = None) -> int:
    if chars is not None and len(chars) > MAX_STRIPPED:  # looked through for each character
        raise SecurityError(f"it strips more than {MAX_STRIPPED} kinds of characters")
    return 0


def _rounded(number: Any, precision: int = 0, method: str = "common") -> int:
    if precision > MAX_PRECISION:  # ten to the power of it is taken
        raise SecurityError(f"it rounds to more than {MAX_PRECISION} digits")
    return 0


# Filters and methods -> how many characters (at most) they will make, where that is more than few.
GROWING: dict[str, Callable[..., int]] = {
    **{"replace": _replaced_chars, "join": _joined_chars, "indent": _indented_chars},
    "round": _rounded,
    **dict.fromkeys(("trim", "strip", "lstrip", "rstrip"), _stripped),
}


def budget_for(chat: Any) -> RenderBudget:
    """Of a rendering, by the length of what it is given."""
    counter = RenderBudget(all_of_it := 2**62, all_of_it)
    counter.pay_deep(chat)
    longest = MAX_CHARS + GROWTH * (all_of_it - counter.left)
    return RenderBudget(HANDLINGS * longest, longest)
