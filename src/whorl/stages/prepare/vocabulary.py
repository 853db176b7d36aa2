"""Codecs fitted on the training documents, and the token contract made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from whorl.codecs.contract import Tokens
from whorl.codecs.text import MAX_TRAINING_BYTES, NUM_SPECIAL
from whorl.codecs.tokenizer import TextCodec
from whorl.codecs.words import MAX_RUN
from whorl.core.ports import Codec, Document, Field, Source
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.corpus import TrainingDocuments

__all__ = ["CHECK_BYTES", "build_tokens"]

CHECK_BYTES = 2**19  # of training text on which the two text encoders are compared
TRAINING_BYTES_PER_ID = 4096  # of text that BPE reads, up to MAX_TRAINING_BYTES
# Of it in words that were not met before, of which each byte costs BPE ten times the time of prose
# and 100 bytes of memory.
NEW_BYTES_PER_ID, MAX_NEW_BYTES = 512, 4 * 2**20
GLANCE_BYTES = 2**20  # of text by which their share is told
WORD = re.compile(rf"\w{{1,{MAX_RUN}}}|[^\w\s]{{1,{MAX_RUN}}}|\s{{1,{MAX_RUN}}}")  # about a word
ALL_BYTES = 2**62
TEXT = "text"


def build_tokens(
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    codecs_of_source: Sequence[frozenset[str]],
    documents_of: Callable[[frozenset[int], int], TrainingDocuments],
    config: PrepareConfig,
) -> tuple[Tokens, int]:
    """(the contract, documents on which the text encoders were compared).

    Each field fits its codecs on the documents of all sources that share a codec with it. Fields
    without text come first, so that text gets the ids that are left. A codec that exists already
    (two fields of text) is not fitted again. Plain text is sampled, other documents are all
    given: a closed set of labels must be whole. Raises DataError or SpecError.
    """
    by_field: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        by_field.setdefault(source.field, []).append(number)
    names = {
        field: frozenset().union(*(codecs_of_source[number] for number in numbers))
        for field, numbers in by_field.items()
    }
    codecs: dict[str, Codec] = {}
    for field in sorted(by_field, key=lambda field: TEXT in names[field]):
        if names[field] and names[field] <= set(codecs):
            continue
        sharing = frozenset(
            number
            for number, _ in enumerate(sources)
            if sources[number].field == field or codecs_of_source[number] & names[field]
        )
        left_ids = config.vocab_size - NUM_SPECIAL - sum(c.num_ids for c in codecs.values())
        only_text = all(codecs_of_source[number] == {TEXT} for number in sharing)
        sample_bytes = ALL_BYTES
        if only_text:
            new = _share_of_new(documents_of(sharing, GLANCE_BYTES))
            most = min(MAX_TRAINING_BYTES, left_ids * TRAINING_BYTES_PER_ID)
            sample_bytes = min(most, int(min(MAX_NEW_BYTES, left_ids * NEW_BYTES_PER_ID) / new))
        fitted = fields[field].fit_codecs(
            documents_of(sharing, sample_bytes),
            {
                "vocab_size": left_ids,
                "seed": config.seed,
                "options": dict(sources[by_field[field][0]].options),
            },
        )
        codecs = {**fitted, **codecs}
    tokens = Tokens.build(codecs, config.vocab_size)
    return tokens, _check(tokens, documents_of, len(sources))


def _share_of_new(documents: Iterable[Document]) -> float:
    """The part of a text in words that were not met before in it; 1 of a text without words."""
    words = [word for document in documents for word in WORD.findall(document.text or "")]
    return sum(map(len, set(words))) / sum(map(len, words)) if words else 1.0


def _check(
    tokens: Tokens,
    documents_of: Callable[[frozenset[int], int], TrainingDocuments],
    num_sources: int,
) -> int:
    """Compare the encoders on an even sample of texts. Raises DataError if they differ."""
    codec = tokens.codecs.get(TEXT)
    if not isinstance(codec, TextCodec):
        return 0
    documents = documents_of(frozenset(range(num_sources)), CHECK_BYTES)
    texts = (
        part.value
        for document in documents
        for part in document.parts
        if part.codec == TEXT and isinstance(part.value, str)
    )
    return codec.check(texts)
