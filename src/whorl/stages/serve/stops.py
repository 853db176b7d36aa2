"""Stop strings, found in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFinder"]


class StopFinder:
    """Gives out text up to the first stop string; holds back what may be the start of one.

    The stop string that is complete first ends the text (of two that end together, the longer),
    so that the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None  # the stop string that was found

    @property
    def found(self) -> bool:
        """Whether a stop string ended the text."""
        return self.matched is not None

    def push(self, piece: str) -> str:
        """The text that is certain now; "" after a stop string was found."""
        if self.found:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        ends = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if ends:
            (_, start, self.matched), self._held = min(ends), ""
            return text[:start]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more comes."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of text that begin stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
