"""Codecs of several fields in one vocabulary: which they share, and what each is called there.

Text is shared: whatever the field, it is one tokenizer, fitted on the texts of all. Every other
codec is its field's own. Where two fields call theirs alike (classes of images and of a table are
both a `label`), the contract says whose: `images.label`, `table.label`. `Tokens.of_field` gives a
field its own names back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from whorl.codecs.contract import CHAT, SPECIAL_CODEC, TEXT
from whorl.codecs.kinds import load_codec
from whorl.codecs.text import NUM_SPECIAL, train_text_codec
from whorl.core.ports import Codec, Document, Field

__all__ = ["fit_together", "texts_of"]

SHARED = frozenset({TEXT, CHAT, SPECIAL_CODEC})
# Training documents of some fields; text_ids: a sample does, of which a tokenizer gets so many ids;
# None: all of them.
DocumentsOf = Callable[[Sequence[str], int | None], Iterable[Document]]


def fit_together(
    fields: Mapping[str, Field],
    codecs_of: Mapping[str, Collection[str]],
    documents_of: DocumentsOf,
    options_of: Mapping[str, Mapping[str, Any]],
    vocab_size: int,
) -> dict[str, Codec]:
    """Codecs by their names in the contract, fitted on training documents.

    codecs_of: field -> the codecs that its documents use. options_of: what each field is given to
    fit its codecs, less vocab_size, the ids that are left. Fields without text come first, so that
    text gets what the others leave. A field of whose documents none is known fits as it will.
    """
    with_text = [name for name in codecs_of if TEXT in codecs_of[name]]
    own = {name: set(codecs_of[name]) - SHARED for name in codecs_of}
    uses = Counter(codec for mine in own.values() for codec in mine)
    found: dict[str, Codec] = {}

    def left_ids() -> int:
        return vocab_size - NUM_SPECIAL - sum(codec.num_ids for codec in found.values())

    for name in sorted(codecs_of, key=lambda name: name in with_text):
        if TEXT in codecs_of[name] and not own[name] and len(with_text) > 1:
            continue  # its text is that of all
        options = {**options_of[name], "vocab_size": left_ids()}
        documents = documents_of([name], left_ids() if set(codecs_of[name]) == {TEXT} else None)
        for key, codec in fields[name].fit_codecs(documents, options).items():
            if key != TEXT:
                key = f"{name}.{key}" if uses[key] > 1 else key
                found[key] = codec if codec.name == key else _called(codec, key)
            elif len(with_text) < 2:
                found[key] = codec
    if len(with_text) > 1:
        texts = texts_of(documents_of(with_text, left_ids()))
        found[TEXT] = train_text_codec(texts, left_ids())
    return found


def _called(codec: Codec, name: str) -> Codec:
    renamed = load_codec(codec.kind, name, codec.files())
    if told := getattr(codec, "told", ""):  # what fitting it lost
        renamed.told = told  # type: ignore[attr-defined]
    return renamed


def texts_of(documents: Iterable[Document]) -> Iterator[str]:
    """All that is text in documents, and all that is said in their chats."""
    for document in documents:
        for part in document.parts:
            if part.codec == CHAT:
                yield from (str(turn.get("content") or "") for turn in part.value["messages"])
            elif part.codec == TEXT:
                yield str(part.value)
