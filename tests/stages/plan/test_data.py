"""Facts of data: counted by hand on documents that exist only here."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from whorl.codecs.label import LabelCodec
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Document, Part, Score, Source
from whorl.core.tasks import ChoiceTask, LikelihoodTask
from whorl.stages.plan.data import DataFacts, TokenFacts, gather_facts

SOURCE = Source("paper", "paper")


@dataclass
class LetterCodec:
    """Every character is one token."""

    name: str = "text"
    kind: str = "letters"
    num_ids: int = 100

    def encode(self, value: Any) -> list[int]:
        return [min(ord(char), 99) for char in value]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def files(self) -> dict[str, bytes]:
        return {}


@dataclass
class PaperField:
    documents: list[Document]
    task: Any = field(default_factory=LikelihoodTask)
    name: str = "paper"
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    def items(self, source: Source) -> list[Any]:
        return list(range(len(self.documents)))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        yield self.documents[item]

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert list(documents)
        self.asked.append(options)
        return {"text": LetterCodec()}

    def baselines(self, train: Any, heldout: Any, rows: Any) -> list[Score]:
        return []


def text_document(name: str, text: str, split: Any = None) -> Document:
    return Document(name, (Part("text", text),), split)


def texts(count: int, seed: int = 0) -> list[str]:
    chooser = random.Random(seed)
    return [
        "".join(chooser.choices("abcdefgh \n", k=chooser.randrange(50, 150))) for _ in range(count)
    ]


def gather(documents: list[Document], **options: Any) -> DataFacts:
    return gather_facts({"paper": PaperField(documents)}, [SOURCE], "d" * 64, (512,), **options)


def test_text_is_counted() -> None:
    written = texts(100)
    facts = gather([text_document(str(n), text) for n, text in enumerate(written)])
    total = sum(map(len, written))
    assert facts.num_documents == 95  # 5% are held out
    assert facts.num_bytes == pytest.approx(0.95 * total, abs=1)
    assert facts.unique_tokens(512) == pytest.approx(0.95 * (total + 2 * 100), rel=0.05)
    tokens = facts.for_vocab(512)
    assert (tokens.used_ids, tokens.vocab_size) == (116, 512)
    assert tokens.bytes_per_token == pytest.approx(100 / 102, abs=0.01)
    assert tokens.trained_share == pytest.approx(101 / 102, abs=0.005)


def test_copies_and_held_out_documents_are_not_counted() -> None:
    written = texts(20)
    documents = [text_document(str(n), text) for n, text in enumerate(written * 2)]
    documents += [
        text_document(f"held {n}", text, "heldout") for n, text in enumerate(texts(30, 1))
    ]
    facts = gather(documents)
    assert facts.num_documents == 20  # the sources say what is held out: nothing more is
    assert facts.num_bytes == sum(map(len, written))


def test_xz_of_the_sample() -> None:
    text = texts(1)[0] * 40
    facts = gather([text_document("one", text)])
    found = len(lzma.compress(text.encode(), preset=9)) * 8 / len(text)
    assert facts.xz_bits_per_byte is not None and facts.xz_bits_per_byte < found


def test_xz_of_little_text_stands_for_more() -> None:
    """A MiB and a sixteenth of it, of one kind: within 15% of each other."""
    chooser = random.Random(5)
    words = ["".join(chooser.choices("etaoinshr", k=chooser.randrange(2, 9))) for _ in range(4000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    text = " ".join(chooser.choices(words, weights, k=220_000))
    large, small = gather([text_document("l", text)]), gather([text_document("s", text[: 2**16])])
    assert large.xz_bits_per_byte is not None and small.xz_bits_per_byte is not None
    assert small.xz_bits_per_byte == pytest.approx(large.xz_bits_per_byte, rel=0.15)


def test_documents_without_text() -> None:
    parts = (Part("text", "abc", False), Part("special", "<|answer|>", False), Part("label", "a"))

    class Field(PaperField):
        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"text": LetterCodec(), "label": LetterCodec("label", num_ids=10)}

    documents = [Document(str(n), parts, "train") for n in range(50)]
    field = Field(documents, ChoiceTask())
    found = gather_facts({"paper": field}, [SOURCE], "d" * 64, (512,))
    tokens = found.for_vocab(512)
    assert (found.metric, found.num_bytes, found.xz_bits_per_byte) == ("accuracy", 0, None)
    assert tokens.tokens_per_document == 7  # bos, a b c, answer, label, eos
    assert tokens.trained_share == 2 / 7  # label and eos
    assert (tokens.used_ids, tokens.bytes_per_token) == (126, None)


def test_the_same_data_gives_the_same_facts() -> None:
    documents = [text_document(str(n), text) for n, text in enumerate(texts(60))]
    assert gather(documents) == gather(documents)


def test_nothing_to_read_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        gather([])
    with pytest.raises(DataError, match="trial tokenizer"):
        gather([text_document("one", "abc")]).for_vocab(4096)


@pytest.mark.parametrize("seq_len", [16, 64, 256])
@pytest.mark.parametrize("longest", [10, 100, 3000])
def test_mixed_rows_match_packing(seq_len: int, longest: int) -> None:
    """Against documents laid end to end and cut into rows."""
    chooser = random.Random(longest)
    lengths = [chooser.randrange(2, longest) for _ in range(3000)]
    facts = TokenFacts(
        vocab_size=512,
        used_ids=512,
        tokens_per_document=1,
        trained_share=1,
        bytes_per_token=1,
        document_tokens=tuple(sorted(lengths)),
    )
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    num_rows = starts[-1] // seq_len
    mixed = {start // seq_len for start in starts if start % seq_len} - {num_rows}
    assert facts.mixed_share(seq_len) == pytest.approx(len(mixed) / num_rows, abs=0.12)


def test_several_fields_are_counted_by_source() -> None:
    """Texts of 98 letters, answers of one label after ten letters of context."""

    class Answers(PaperField):
        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            assert all(len(document.parts) == 2 for document in documents)
            return {"label": LetterCodec("label", num_ids=10), "seen": LetterCodec("seen")}

    labelled = (Part("seen", "k" * 10, False), Part("label", "a"))
    answered = [Document(str(n), labelled) for n in range(300)]
    fields = {
        "paper": PaperField([text_document(str(n), f"{n:03d}" + "x" * 95) for n in range(100)]),
        "answers": Answers(answered, ChoiceTask(), "answers"),
    }
    sources = [Source("p", "paper", 0.8), Source("a", "answers", 0.2)]
    facts = gather_facts(fields, sources, "d" * 64, (512,), heldout_share=0.0)
    assert facts.metric == "bits_per_byte" and facts.num_documents == 400
    paper, answers = facts.sources
    tokens, trained = (100 * 100, 300 * 13), (99 / 100, 2 / 13)  # with <|bos|> and <|eos|>
    assert paper.tokens_share == pytest.approx(tokens[0] / sum(tokens))
    assert (paper.trained_share, answers.trained_share) == pytest.approx(trained)
    # 0.8 and 0.2 of the trained tokens of a run of a million positions, counted backwards.
    unique = facts.unique_tokens(512)
    epochs = facts.epochs(1e6, 512)
    seen = [epochs[n] * facts.sources[n].tokens_share * unique for n in range(2)]
    assert sum(seen) == pytest.approx(1e6)
    assert seen[0] * trained[0] / (seen[1] * trained[1]) == pytest.approx(4)


def test_sources_of_which_parts_were_read_are_counted_whole() -> None:
    """400 large arrays of three tokens each hide no text, and count as all that they are."""

    class Pictures(PaperField):
        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"picture": Brightness("picture", num_ids=10)}

    class Halved(PaperField):
        """Of few ids each letter takes two."""

        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"text": Doubled() if options["vocab_size"] < 300 else LetterCodec()}

    class Doubled(LetterCodec):
        def encode(self, value: Any) -> list[int]:
            return [number for number in super().encode(value) for _ in range(2)]

    class Brightness(LetterCodec):
        def encode(self, value: Any) -> list[int]:
            return [int(value.flat[0])]

    pictures = [
        Document(str(n), (Part("picture", np.full(2**18, n % 9, np.uint8)),)) for n in range(400)
    ]
    written = [text_document(str(n), f"{n:03d}" + "x" * 95) for n in range(90)]
    fields = {
        "pictures": Pictures(pictures, ChoiceTask(), "pictures"),
        "paper": Halved(written),
    }
    sources = [Source("a", "pictures", 0.5), Source("p", "paper", 0.5)]
    facts = gather_facts(fields, sources, "d" * 64, (256, 512), heldout_share=0.0)
    assert facts.read_share < 0.5  # 8 MiB of pictures are 32 of 400
    assert facts.num_documents == 490 and facts.num_bytes == 90 * 98
    assert facts.unique_tokens(512) == pytest.approx(400 * 3 + 90 * 100)
    assert facts.unique_tokens(256) == pytest.approx(400 * 3 + 90 * (2 + 2 * 98))
    assert facts.sources[0].tokens_share == pytest.approx(1200 / (1200 + 9000))


def test_a_file_of_two_halves_is_counted_by_both() -> None:
    """1,000 answers in one file, of which the latter half has ten times the letters."""

    class OneFile(PaperField):
        def items(self, source: Source) -> list[Any]:
            return ["all"]

        def read(
            self, source: Source, item: Any, reject: Callable[[str], None]
        ) -> Iterator[Document]:
            yield from self.documents

        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"label": LetterCodec("label")}

    answers = [
        Document(str(n), (Part("label", "k" * (10 if n < 500 else 100)),)) for n in range(1000)
    ]
    fields = {
        "answers": OneFile(answers, ChoiceTask(), "answers"),
        "paper": PaperField([text_document(str(n), text) for n, text in enumerate(texts(20))]),
    }
    sources = [Source("a", "answers", 0.5), Source("p", "paper", 0.5)]
    facts = gather_facts(fields, sources, "d" * 64, (512,), heldout_share=0.0)
    num_answers = facts.sources[0].tokens_share * facts.unique_tokens(512)
    assert num_answers == pytest.approx(500 * 12 + 500 * 102, rel=0.1)


def test_a_source_without_a_trained_token_is_refused() -> None:
    documents = [Document(str(n), (Part("text", f"muted {n}", False),)) for n in range(9)]
    fields = {"paper": PaperField([text_document("t", "abc")]), "mute": PaperField(documents)}
    with pytest.raises(DataError, match="source m has nothing to train on"):
        gather_facts(fields, [Source("p", "paper"), Source("m", "mute")], "d" * 64, (512,))


def test_measured_documents_that_cannot_be_encoded_are_counted() -> None:
    """Each label once: those of the measured documents are not among the fitted ones."""

    class Labels(PaperField):
        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"label": LabelCodec.fit(document.parts[0].value for document in documents)}

    def labels(count: int) -> list[Document]:
        rare = [Document(f"r{n}", (Part("label", f"rare {n}"),), "train") for n in range(count)]
        often = [Document(f"o{n}", (Part("label", "often"),), "train") for n in range(50 - count)]
        return rare + often

    field = Labels(labels(10), ChoiceTask())
    found = gather_facts({"paper": field}, [SOURCE], "d" * 64, (512,)).for_vocab(512)
    kept = len(found.document_tokens)
    assert found.num_refused >= 1 and kept + found.num_refused == 10
    assert found.tokens_per_document == pytest.approx(3 * kept / 10)  # bos, label, eos
    with pytest.raises(DataError, match="no label"):
        gather_facts({"paper": Labels(labels(50), ChoiceTask())}, [SOURCE], "d" * 64, (512,))


def test_an_open_vocabulary_grows_to_all_labels_there_are() -> None:
    """A recipe that gives no size: neither 512 ids nor what a sample happens to hold is the end."""

    class Labels(PaperField):
        def fit_codecs(
            self, documents: Iterable[Document], options: Mapping[str, Any]
        ) -> dict[str, Any]:
            return {"label": LabelCodec.fit(part.value for d in documents for part in d.parts)}

    names = [f"n{number}" for number in range(700)]
    documents = [
        Document(f"{n}", tuple(Part("label", name) for name in (names[n], names[n - 1])), "train")
        for n in range(700)
    ]
    field = Labels(documents, ChoiceTask())
    found = gather_facts({"paper": field}, [SOURCE], "d" * 64, (512,), is_open=True)
    (facts,) = found.tokens
    assert facts.used_ids == 716  # with 16 special ones
    with pytest.raises(SpecError, match="vocabulary is too small"):
        gather_facts({"paper": field}, [SOURCE], "d" * 64, (512,))
