"""Chats as people have them: messages, ShareGPT, Alpaca, prompts with answers, preferences, text.

Files are recognised row by row by what they hold, never by their names; a folder may mix them. The
source `stdlib-docstrings` asks about the standard library of the Python that runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, TEXT
from whorl.codecs.text import train_text_codec
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.sources import FileItem
from whorl.core.tasks import LikelihoodTask
from whorl.fields.chat_shapes import recognised
from whorl.fields.docstrings import STDLIB_DOCSTRINGS, docstring_chats, docstring_items
from whorl.fields.files import NAMED_FORMATS, ROW_FORMATS, text_items
from whorl.fields.formats import mended_text, rows_of, texts_of
from whorl.fields.places import Places
from whorl.fields.text import TEXT_KEY

__all__ = ["FIELD", "ChatField", "chat_texts"]

ROWS = (*ROW_FORMATS, *NAMED_FORMATS)  # data of chats is often named .json


@dataclass(frozen=True)
class ChatField:
    """Conversations, of which the assistant's turns are learned and scored in bits per byte."""

    name: str = "chat"
    task: Task = field(default_factory=LikelihoodTask)
    logic_version: int = 2
    options: Mapping[str, str] = field(default_factory=lambda: {TEXT_KEY: "text"})

    def items(self, source: Source) -> list[Any]:
        """Files or ranges of long ones. Raises DataError when the source is missing or empty."""
        if source.source == STDLIB_DOCSTRINGS:
            return list(docstring_items(source))
        return list(text_items(source, rows=ROWS))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """A document of one chat, of two (the preferred answer first), or of text."""
        if source.source == STDLIB_DOCSTRINGS:
            yield from docstring_chats(item, reject)
        elif item.kind == "text" or not item.is_read:
            yield from _texts(item, Places.of(item, reject))
        else:
            text_key = source.options.get(TEXT_KEY, self.options[TEXT_KEY])
            yield from _chats(item, Places.of(item, reject), text_key)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """For a model from scratch: byte-level BPE of what is said in the chats."""
        texts = (text for document in documents for text in chat_texts(document))
        return {TEXT: train_text_codec(texts, int(options["vocab_size"]), int(options["seed"]))}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """None: a compressor cannot be asked for the answers alone."""
        return []


def chat_texts(document: Document) -> Iterator[str]:
    """Everything that is said in a document."""
    for part in document.parts:
        if part.codec == CHAT:
            yield from (message["content"] for message in part.value["messages"])
        else:
            yield str(part.value)


def _texts(item: FileItem, places: Places) -> Iterator[Document]:
    for name, text in texts_of(item, places):
        places.tell("plain text")
        yield Document(name, (Part(TEXT, text),))


def _chats(item: FileItem, places: Places, text_key: str) -> Iterator[Document]:
    for name, row in rows_of(item, (), places):
        mended = dict[str, None]()
        try:
            found = recognised(_clean(row, places), text_key, mended.setdefault)
        except ValueError as error:
            places.refuse(*error.args)
            continue
        if not found.chats and not found.text.strip():
            places.refuse("empty")
            continue
        places.tell(found.shape)
        for words in mended:
            places.mend(words)
        parts = [Part(CHAT, chat) for chat in found.chats] or [Part(TEXT, found.text)]
        yield Document(name, tuple(parts))


def _clean(value: Any, places: Places) -> Any:
    """A value whose texts hold no NUL and no half of a sign."""
    if isinstance(value, str):
        return mended_text(value, places)
    if isinstance(value, Mapping):
        return {mended_text(str(key), places): _clean(item, places) for key, item in value.items()}
    return [_clean(item, places) for item in value] if isinstance(value, list) else value


FIELD = ChatField()
