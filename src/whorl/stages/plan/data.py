"""What plan knows of the data: how much there is, how it tokenises, how well it compresses.

Read through the field's own reader and codecs, so the same lines serve text and images. Large
data is sampled by whole items in a shuffled order and scaled up.
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

from pydantic import Field

from whorl.codecs.contract import CHAT, SPECIAL_CODEC, TEXT, Tokens
from whorl.codecs.text import NUM_SPECIAL
from whorl.codecs.together import fit_together
from whorl.core.errors import DataError
from whorl.core.frozen import Frozen
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.ports import Document, Source
from whorl.core.ports import Field as DataField
from whorl.core.reasons import unreadable
from whorl.stages.plan.sampling import Sample, read_sample

__all__ = ["DataFacts", "SourceFacts", "TokenFacts", "gather_facts"]

SAMPLE_BYTES = 2**20  # for xz; the same as in the runs the law was fitted on
XZ_EXPONENT = 0.1  # of the sample's size; 0.06 to 0.10 for Python code, 0.11 to 0.15 for licences
CODEC_BYTES = 4 * 2**20  # of text that trial tokenizers are trained on
MEASURED_DOCUMENTS, MEASURED_BYTES = 400, 2**19  # documents that are tokenised to count
OTHER_DOCUMENT_BYTES = 1024  # what a document that is not text counts for in a sample


class TokenFacts(Frozen):
    """The data under one vocabulary, measured on a sample."""

    vocab_size: int = Field(description="ids asked for, special ids included")
    used_ids: int = Field(description="ids the codecs really have, special ids included")
    tokens_per_document: float = Field(
        description="mean, <|bos|> and <|eos|> included; 0 of one that cannot be encoded"
    )
    trained_share: float = Field(description="share of tokens that are targets")
    bytes_per_token: float | None = Field(description="of text, boundary tokens included")
    document_tokens: tuple[int, ...] = Field(description="lengths of sampled documents, sorted")
    num_refused: int = Field(0, description="sampled documents that cannot be encoded")

    def mixed_share(self, seq_len: int) -> float:
        """Share of rows of seq_len tokens that hold the border of two documents.

        Packing is contiguous: each border mixes one row, short documents share one.
        """
        total = sum(self.document_tokens)
        inside = sum(min(length, seq_len) for length in self.document_tokens)
        return min(1.0, inside / total) if total else 0.0


class SourceFacts(Frozen):
    """One source of several, measured on a sample."""

    field: str
    share: float | None = Field(description="of the trained tokens, if the recipe gives shares")
    tokens_share: float = Field(description="its part of the tokens of all sources")
    trained_share: float = Field(description="share of its tokens that are targets")


class DataFacts(Frozen):
    digest: str = Field(description="of the sources; the plan's record depends on it")
    metric: str = Field(description="name of what evaluation measures")
    num_documents: int = Field(description="for training, exact copies counted once")
    num_bytes: int = Field(description="of their text in UTF-8; 0 if they are not text")
    xz_bits_per_byte: float | None = Field(description="of a 1 MiB sample of the text")
    tokens: tuple[TokenFacts, ...] = Field(min_length=1)
    read_share: float = Field(description="share of the items that was read")
    sources: tuple[SourceFacts, ...] = Field((), description="of several sources; else none")

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

    @property
    def is_mixed(self) -> bool:
        """Whether the sources are mixed by shares."""
        return bool(self.sources) and self.sources[0].share is not None

    def epochs(self, tokens: float, vocab_size: int) -> tuple[float, ...]:
        """How often training on so many tokens sees each source; one figure if nothing is mixed."""
        unique = self.unique_tokens(vocab_size)
        if not self.is_mixed:
            return (tokens / unique,)
        read = [(source.share or 0.0) / source.trained_share for source in self.sources]
        return tuple(
            tokens * amount / sum(read) / (source.tokens_share * unique)
            for amount, source in zip(read, self.sources, strict=True)
        )


def gather_facts(
    fields: Mapping[str, DataField],
    sources: Sequence[Source],
    digest: str,
    vocab_sizes: Sequence[int],
    heldout_share: float = 0.05,
    seed: int = 0,
    given: Tokens | None = None,
    is_open: bool = False,
) -> DataFacts:
    """Read (a sample of) the data and try the fields' codecs at each vocabulary size.

    given: the tokens of a base, in place of all of them. is_open: without text, codecs may have
    more ids than these sizes.

    Raises DataError when there is nothing to train on.
    """
    read = read_sample(fields, sources, seed)
    if not read.documents:
        found, do = unreadable([read.reasons])
        names = ", ".join(source.source for source in sources)
        raise DataError(
            "there is nothing to train on",
            found=f"no readable document in {names}: {found}",
            do=do,
        )
    scale = 1.0 if read.num_heldout else 1 - heldout_share
    sample = list(read.documents)
    random.Random(seed).shuffle(sample)
    tokens = [given] if given is not None else []
    if given is None:
        tokens = [_fit_tokens(fields, sources, sample, size, seed, is_open) for size in vocab_sizes]
    facts = [_token_facts(one, sources, sample) for one in tokens]
    if is_open and given is None and TEXT not in tokens[-1].codecs:
        whole = _fit_tokens(fields, sources, sample, vocab_sizes[-1], seed, True, True)
        used_ids = max(entry.id_end for entry in whole.contract.codecs)  # what is rare among them
        facts = [each.model_copy(update={"used_ids": used_ids}) for each in facts]
    of_sources: tuple[SourceFacts, ...] = ()
    if len(sources) > 1:  # of each another part was read: documents of all do not weigh the same
        counted = [_source_facts(one, sources, sample, read.factors) for one in tokens]
        of_sources = counted[-1][0]
        facts = [
            each.model_copy(update={"tokens_per_document": num_tokens / read.num_documents})
            for each, (_, num_tokens) in zip(facts, counted, strict=True)
        ]
    metrics = [fields[source.field].task.metric.name for source in sources]
    return DataFacts(
        digest=digest,
        metric=BITS_PER_BYTE.name if BITS_PER_BYTE.name in metrics else metrics[0],
        num_documents=max(1, round(read.num_documents * scale)),
        num_bytes=round(read.num_bytes * scale),
        xz_bits_per_byte=_xz_bits_per_byte([d for _, d in sample if d.text is not None]),
        tokens=tuple(facts),
        read_share=read.read_share,
        sources=of_sources,
    )


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


def _fit_tokens(
    fields: Mapping[str, DataField],
    sources: Sequence[Source],
    sample: Sample,
    vocab_size: int,
    seed: int,
    is_open: bool = False,
    is_whole: bool = False,
) -> Tokens:
    """Codecs of all fields, fitted on what is not measured; text gets the ids that are left.

    is_open: without text they may have more ids. is_whole: they are fitted on the whole sample.
    """
    rest = sample if is_whole else sample[_num_measured(sample) :]
    groups: dict[str, list[Document]] = {}
    for name in dict.fromkeys(source.field for source in sources):
        mine = [(n, document) for n, document in sample if sources[n].field == name]
        kept = [document for n, document in rest if sources[n].field == name]
        groups[name] = kept or [document for _, document in mine]
    is_open_here = is_open and not any(d.text is not None for _, d in sample)
    common = {"seed": seed, "is_open": is_open_here}
    options = {
        source.field: {**common, "options": dict(source.options)} for source in reversed(sources)
    }

    def of_fields(names: Sequence[str], text_ids: int | None) -> list[Document]:
        mine = [document for name in names for document in groups[name]]
        if len(names) > 1:
            random.Random(seed).shuffle(mine)
        return _first_bytes(mine, CODEC_BYTES)

    known = {name: _codecs_of(documents) for name, documents in groups.items() if documents}
    codecs = fit_together(fields, known, of_fields, options, vocab_size)
    needed_ids = NUM_SPECIAL + sum(codec.num_ids for codec in codecs.values())
    if is_open and TEXT not in codecs:
        vocab_size = max(vocab_size, needed_ids)
    return Tokens.build(codecs, vocab_size)


def _codecs_of(documents: Sequence[Document]) -> set[str]:
    used = {part.codec for document in documents for part in document.parts}
    return {TEXT if name == CHAT else name for name in used} - {SPECIAL_CODEC}


def _num_measured(sample: Sized) -> int:
    return min(MEASURED_DOCUMENTS, max(1, len(sample) // 5))


@dataclass
class _Counted:
    """Tokens of documents; boundary tokens included."""

    lengths: list[int]
    trained: int = 0
    text_bytes: int = 0
    num_refused: int = 0

    @classmethod
    def of(cls, tokens: Tokens, sources: Sequence[Source], sample: Sample) -> _Counted:
        """Raises DataError if none can be encoded; prepare passes over those too."""
        counted = cls([])
        views = [tokens.of_field(source.field) for source in sources]
        measured = sample[: len(_first_bytes([d for _, d in sample], MEASURED_BYTES))]
        for number, document in measured:
            try:
                ids, mask = views[number].encode_arrays(document)
            except DataError:
                counted.num_refused += 1
                if counted.num_refused == len(measured):
                    raise
                continue
            counted.lengths.append(len(ids))
            counted.trained += int(mask.sum())
            counted.text_bytes += len((document.text or "").encode("utf-8", "replace"))
        return counted

    def mean_length(self, sample: Sequence[Document]) -> float:
        """Tokens per document; for text by the bytes of all documents, which vary more."""
        total, num_kept = sum(self.lengths), len(self.lengths)
        kept_share = num_kept / (num_kept + self.num_refused)
        if not self.text_bytes:
            return total / num_kept * kept_share
        num_bytes = sum(len((d.text or "").encode("utf-8", "replace")) for d in sample)
        return num_bytes / len(sample) * total / self.text_bytes * kept_share


def _token_facts(tokens: Tokens, sources: Sequence[Source], sample: Sample) -> TokenFacts:
    """Counted on what the codecs were not fitted on (on all of it if it is small)."""
    counted = _Counted.of(tokens, sources, sample[: _num_measured(sample)])
    total = sum(counted.lengths)
    return TokenFacts(
        vocab_size=tokens.contract.vocab_size,
        used_ids=max(entry.id_end for entry in tokens.contract.codecs),
        tokens_per_document=counted.mean_length([document for _, document in sample]),
        trained_share=counted.trained / total,
        bytes_per_token=counted.text_bytes / total if counted.text_bytes else None,
        document_tokens=tuple(sorted(counted.lengths)),
        num_refused=counted.num_refused,
    )


def _source_facts(
    one: Tokens, sources: Sequence[Source], sample: Sample, factors: Sequence[float]
) -> tuple[tuple[SourceFacts, ...], float]:
    """How the tokens are spread over several sources, and how many there are.

    sample: in a shuffled order, since what begins a file may be unlike the rest of it. factors: see
    `Read`. Raises DataError if a source has nothing to train on.
    """
    tokens, trained = [], []
    for number, source in enumerate(sources):
        mine = [each for each in sample if each[0] == number]
        counted = _Counted.of(one, sources, mine[:MEASURED_DOCUMENTS]) if mine else _Counted([])
        if not counted.trained:
            raise DataError(
                f"source {source.source} has nothing to train on",
                found=f"{len(mine)} documents without a trained token",
            )
        mean = counted.mean_length([document for _, document in mine])
        tokens.append(factors[number] * len(mine) * mean)
        trained.append(counted.trained / sum(counted.lengths))
    found = tuple(
        SourceFacts(
            field=source.field,
            share=source.share,
            tokens_share=tokens[number] / sum(tokens),
            trained_share=trained[number],
        )
        for number, source in enumerate(sources)
    )
    return found, sum(tokens)


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
