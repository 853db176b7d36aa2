"""Codecs fitted on the training documents, and the token contract made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from whorl.codecs.contract import Tokens
from whorl.codecs.text import MAX_TRAINING_BYTES
from whorl.codecs.together import fit_together, texts_of
from whorl.codecs.tokenizer import TextCodec
from whorl.codecs.words import MAX_RUN
from whorl.core.ports import Field, Source
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.corpus import Training, TrainingDocuments

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
    training: Training,
    config: PrepareConfig,
) -> tuple[Tokens, int]:
    """(the contract, documents on which the text encoders were compared).

    As `fit_together` says. Plain text is sampled, other documents are all given: a closed set of
    labels must be whole. Raises DataError or SpecError.
    """
    by_field: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        by_field.setdefault(source.field, []).append(number)
    names = {
        field: frozenset().union(*map(training.corpus.codecs_of_source, numbers))
        for field, numbers in by_field.items()
    }
    options = {
        field: {"seed": config.seed, "options": dict(sources[numbers[0]].options)}
        for field, numbers in by_field.items()
    }

    def documents(wanted: Sequence[str], text_ids: int | None) -> TrainingDocuments:
        numbers = frozenset(number for field in wanted for number in by_field[field])
        if text_ids is None:
            return training.documents(numbers, ALL_BYTES)
        glance = training.documents(numbers, GLANCE_BYTES)
        texts = texts_of(glance) if len(wanted) > 1 else (each.text or "" for each in glance)
        most = min(MAX_TRAINING_BYTES, text_ids * TRAINING_BYTES_PER_ID)
        most_new = min(MAX_NEW_BYTES, text_ids * NEW_BYTES_PER_ID)
        return training.documents(numbers, min(most, int(most_new / _share_of_new(texts))))

    codecs = fit_together(fields, names, documents, options, config.vocab_size)
    tokens = Tokens.build(codecs, config.vocab_size)
    return tokens, _check(tokens, training, len(sources))


def _share_of_new(texts: Iterable[str]) -> float:
    """The part of a text in words that were not met before in it; 1 of a text without words."""
    words = [word for text in texts for word in WORD.findall(text)]
    return sum(map(len, set(words))) / sum(map(len, words)) if words else 1.0


def _check(tokens: Tokens, training: Training, num_sources: int) -> int:
    """Compare the encoders on an even sample of texts. Raises DataError if they differ."""
    codec = tokens.codecs.get(TEXT)
    if not isinstance(codec, TextCodec):
        return 0
    documents = training.documents(frozenset(range(num_sources)), CHECK_BYTES)
    texts = (
        part.value
        for document in documents
        for part in document.parts
        if part.codec == TEXT and isinstance(part.value, str)
    )
    return codec.check(texts)
