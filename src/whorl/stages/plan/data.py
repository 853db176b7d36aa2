"""What plan knows of the data: how much there is, how it tokenises, how well it compresses.

Read through the field's own reader and codecs, so the same lines serve text and images. Large
data is sampled by whole items in a shuffled order and scaled up.
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from whorl.core.errors import DataError
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.ports import Codec, Document, Source
from whorl.core.ports import Field as DataField

__all__ = ["DataFacts", "TokenFacts", "gather_facts"]

MAX_READ_BYTES = 64 * 2**20  # more is sampled
MAX_READ_DOCUMENTS = 200_000
SAMPLE_BYTES = 2**20  # for xz; the same as in the runs the law was fitted on
XZ_EXPONENT = 0.1  # of the sample's size; 0.06 to 0.10 for Python code, 0.11 to 0.15 for licences
CODEC_BYTES = 4 * 2**20  # of text that trial tokenizers are trained on
MEASURED_DOCUMENTS, MEASURED_BYTES = 400, 2**19  # documents that are tokenised to count
OTHER_DOCUMENT_BYTES = 1024  # what a document that is not text counts for in a sample
BOUNDARY_TOKENS = 2  # <|bos|> and <|eos|> of every document
NUM_SPECIAL_IDS = 16
SPECIAL = "special"  # codec name of a part that is one special id


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenFacts(Frozen):
    """The data under one vocabulary, measured on a sample."""

    vocab_size: int = Field(description="ids asked for, special ids included")
    used_ids: int = Field(description="ids the codecs really have, special ids included")
    tokens_per_document: float = Field(description="mean, <|bos|> and <|eos|> included")
    trained_share: float = Field(description="share of tokens that are targets")
    bytes_per_token: float | None = Field(description="of text, boundary tokens included")
    document_tokens: tuple[int, ...] = Field(description="lengths of sampled documents, sorted")

    def mixed_share(self, seq_len: int) -> float:
        """Share of rows of seq_len tokens that hold the border of two documents.

        Packing is contiguous: each border mixes one row, short documents share one.
        """
        total = sum(self.document_tokens)
        inside = sum(min(length, seq_len) for length in self.document_tokens)
        return min(1.0, inside / total) if total else 0.0


class DataFacts(Frozen):
    digest: str = Field(description="of the sources; the plan's record depends on it")
    field: str
    metric: str = Field(description="name of what evaluation measures")
    num_documents: int = Field(description="for training, exact copies counted once")
    num_bytes: int = Field(description="of their text in UTF-8; 0 if they are not text")
    xz_bits_per_byte: float | None = Field(description="of a 1 MiB sample of the text")
    tokens: tuple[TokenFacts, ...] = Field(min_length=1)
    read_share: float = Field(description="share of the items that was read")

    @property
    def has_law(self) -> bool:
        """Whether a scaling law predicts the quality: laws are of bits per byte."""
        return self.metric == BITS_PER_BYTE.name

    def for_vocab(self, vocab_size: int) -> TokenFacts:
        """The facts measured with this vocabulary. Raises DataError if there are none."""
        for facts in self.tokens:
            if facts.vocab_size == vocab_size:
                return facts
        raise DataError(
            "no trial tokenizer of that size",
            found=vocab_size,
            expected=[facts.vocab_size for facts in self.tokens],
        )

    def unique_tokens(self, vocab_size: int) -> int:
        """Tokens of one epoch."""
        return max(1, round(self.num_documents * self.for_vocab(vocab_size).tokens_per_document))


@dataclass
class _Read:
    documents: list[Document]
    num_heldout: int
    num_bytes: int
    read_share: float


def gather_facts(
    field: DataField,
    sources: Sequence[Source],
    digest: str,
    vocab_sizes: Sequence[int],
    heldout_share: float = 0.05,
    seed: int = 0,
) -> DataFacts:
    """Read (a sample of) the data and try the field's codecs at each vocabulary size.

    Raises DataError when there is nothing to train on.
    """
    read = _read(field, sources, seed)
    if not read.documents:
        raise DataError(
            "there is nothing to train on",
            found=f"no readable document in {', '.join(source.source for source in sources)}",
            do="check the recipe's data",
        )
    scale = (1.0 if read.num_heldout else 1 - heldout_share) / read.read_share
    sample = list(read.documents)
    random.Random(seed).shuffle(sample)
    return DataFacts(
        digest=digest,
        field=field.name,
        metric=field.task.metric.name,
        num_documents=max(1, round(len(read.documents) * scale)),
        num_bytes=round(read.num_bytes * scale),
        xz_bits_per_byte=_xz_bits_per_byte(sample),
        tokens=tuple(_token_facts(field, sample, size, seed) for size in vocab_sizes),
        read_share=read.read_share,
    )


def _read(field: DataField, sources: Sequence[Source], seed: int) -> _Read:
    items = [(source, item) for source in sources for item in field.items(source)]
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    seen: set[bytes] = set()
    read = _Read([], 0, 0, 1.0)
    for done, number in enumerate(order):
        if read.num_bytes > MAX_READ_BYTES or len(read.documents) > MAX_READ_DOCUMENTS:
            read.read_share = done / len(items)
            break
        for document in field.read(*items[number], lambda reason: None):
            if document.split == "heldout":
                read.num_heldout += 1
                continue
            data = (document.text or "").encode("utf-8", "replace")
            key = blake3(data).digest()
            if data and key in seen:
                continue
            seen.add(key)
            read.documents.append(document)
            read.num_bytes += len(data)
    return read


def _xz_bits_per_byte(sample: Sequence[Document]) -> float | None:
    """Bits per byte of xz -9 on the first MiB of the documents in shuffled order.

    Of less text xz makes less; the figure is what a MiB of the same kind would give.
    """
    pieces: list[bytes] = []
    size = 0
    for document in sample:
        if document.text is None:
            return None
        pieces.append(document.text.encode("utf-8", "replace"))
        size += len(pieces[-1]) + 1
        if size > SAMPLE_BYTES:
            break
    data = b"\n".join(pieces)[:SAMPLE_BYTES]
    if not data:
        return None
    found = len(lzma.compress(data, preset=9)) * 8 / len(data)
    return float(found * (len(data) / SAMPLE_BYTES) ** XZ_EXPONENT)


def _token_facts(
    field: DataField, sample: Sequence[Document], vocab_size: int, seed: int
) -> TokenFacts:
    """Fit the codecs on most of the sample, count on the rest (on all of it if it is small)."""
    num_measured = min(MEASURED_DOCUMENTS, max(1, len(sample) // 5))
    measured, rest = sample[:num_measured], sample[num_measured:]
    options = {"vocab_size": vocab_size - NUM_SPECIAL_IDS, "seed": seed}
    codecs = field.fit_codecs(_first_bytes(rest or measured, CODEC_BYTES), options)
    lengths: list[int] = []
    trained = total_bytes = 0
    for document in _first_bytes(measured, MEASURED_BYTES):
        counts = [
            (_num_ids(codecs, part.codec, part.value), part.trained) for part in document.parts
        ]
        lengths.append(sum(count for count, _ in counts) + BOUNDARY_TOKENS)
        trained += sum(count for count, is_trained in counts if is_trained)
        trained += int(bool(counts) and counts[-1][1])  # <|eos|> is a target if what it ends is
        total_bytes += len((document.text or "").encode("utf-8", "replace"))
    total = sum(lengths)
    return TokenFacts(
        vocab_size=vocab_size,
        used_ids=NUM_SPECIAL_IDS + sum(codec.num_ids for codec in codecs.values()),
        tokens_per_document=_mean_length(sample, lengths, total, total_bytes),
        trained_share=trained / total,
        bytes_per_token=total_bytes / total if total_bytes else None,
        document_tokens=tuple(sorted(lengths)),
    )


def _mean_length(
    sample: Sequence[Document], lengths: Sequence[int], total: int, total_bytes: int
) -> float:
    """Tokens per document; for text by the bytes of all documents, which vary more."""
    if not total_bytes:
        return total / len(lengths)
    num_bytes = sum(len((document.text or "").encode("utf-8", "replace")) for document in sample)
    return num_bytes / len(sample) * total / total_bytes


def _num_ids(codecs: Mapping[str, Codec], name: str, value: object) -> int:
    return 1 if name == SPECIAL else len(codecs[name].encode(value))


def _first_bytes(sample: Sequence[Document], max_bytes: int) -> list[Document]:
    """Documents from the start up to max_bytes of text; at least one."""
    kept: list[Document] = []
    size = 0
    for document in sample:
        if kept and size > max_bytes:
            break
        kept.append(document)
        size += len(document.text) if document.text is not None else OTHER_DOCUMENT_BYTES
    return kept
