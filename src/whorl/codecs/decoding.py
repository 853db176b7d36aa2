"""Ids to text, piece by piece."""

from __future__ import annotations

import codecs as unicode_codecs
from collections.abc import Callable, Sequence

from whorl.codecs.tokenizer import TextCodec

__all__ = ["DecodeStream"]


class DecodeStream:
    """Gives text as ids come and holds back half characters; the pieces join to the whole."""

    def __init__(
        self, codec: TextCodec | None, other: Callable[[int], str | None], continues: bool
    ) -> None:
        """other: how an id that is not text is shown, None if it is text.

        continues: the ids go on from a prompt, so that a space in front is not dropped.
        """
        self._other = other
        self._utf8 = unicode_codecs.getincrementaldecoder("utf-8")("replace")
        self._first = 0 if codec is None else codec.first_id
        self._bytes = [] if codec is None else codec.token_bytes
        self._strips = codec is not None and codec.strips_space and not continues

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain once these ids are known too."""
        pieces = []
        for number in map(int, ids):
            shown = self._other(number)
            if shown is None:
                pieces.append(self._utf8.decode(self._bytes[number - self._first]))
            else:
                pieces += [self._rest(), shown]
        return self._stripped("".join(pieces))

    def finish(self) -> str:
        """What was held back: half a character becomes U+FFFD."""
        return self._stripped(self._rest())

    def _rest(self) -> str:
        rest = self._utf8.decode(b"", True)
        self._utf8.reset()
        return rest

    def _stripped(self, text: str) -> str:
        if not self._strips or not text:
            return text
        self._strips = False
        return text.removeprefix(" ")
