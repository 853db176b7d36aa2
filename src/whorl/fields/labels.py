"""Texts to classify: of which class is this one?

A text is tokens of the text codec, the answer one of the classes. Texts are also read in copies
with some words missing, which are learned from as if they were others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.core.errors import MissingExtra
from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, F1
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.tasks import ClassTask
from whorl.fields.label_files import SUFFIXES, LabelledText, read_labels
from whorl.fields.places import Places
from whorl.fields.whole import (
    begins,
    copies_of,
    number_of,
    share_option,
    tell_copies,
    whole_items,
)

__all__ = ["FIELD", "LabelsField"]

LABEL, MARK_CODEC = "label", "special"
MARK, ORIGINAL = "<|answer|>", "<|end|>"  # the latter stands behind texts as they were read
WANTED_TEXTS, MOST_COPIES = 50_000, 10  # where a recipe says no number of copies
TASK = ClassTask()


@dataclass(frozen=True)
class LabelsField:
    """One document per text and copy; only the class is learned."""

    name: str = "labels"
    task: Task = TASK
    logic_version: int = 1
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"text": "", "label": "", "classes": "", "mail": "no"},
            **{"most": "1500", "least": "1", "heldout": "0.2"},
            **{"copies": "auto", "gaps": "0.15", "seed": "0"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no text."""
        return list(whole_items(source, SUFFIXES))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if there are no classes, SpecError on wrong options."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        gaps, seed = share_option(options, "gaps"), number_of(options, "seed")
        texts = read_labels(source, options, reject)
        copies = copies_of(options, len(texts), WANTED_TEXTS, MOST_COPIES)
        tell_copies(Places.of(item, reject), len(texts), "texts", copies)
        for place, each in enumerate(texts):
            if each.is_heldout:
                yield _document(each, each.name, each.text)
                continue
            yield _document(each, each.name, each.text, is_original=True)
            rng = np.random.default_rng([seed, place])
            words = each.text.split(" ")
            for copy in range(1, copies):
                kept = (rng.random(len(words)) >= gaps).tolist()
                text = " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
                if text.strip():
                    yield _document(each, f"{each.name}~{copy}", text)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """The classes, and byte-level BPE of the texts as they were read."""
        labels, texts = set(), []
        for document in documents:
            labels |= {part.value for part in document.parts if part.codec == LABEL}
            if document.parts[-1].value == ORIGINAL:
                texts.append(document.parts[0].value)
        label = LabelCodec.fit(labels)
        left_ids = int(options["vocab_size"]) - label.num_ids
        return {LABEL: label, TEXT: train_text_codec(texts, left_ids, int(options["seed"]))}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """A linear machine and naive Bayes of words and pairs; the commonest class."""
        originals = [document for document in train if document.parts[-1].value == ORIGINAL]
        known, labels = zip(*map(_taken_apart, originals), strict=True)
        asked, right = zip(*map(_taken_apart, heldout), strict=True)
        classes = sorted({*labels, *right})
        names = tuple(document.name for document in heldout)
        truth = np.array([classes.index(label) for label in right], np.float64)
        scores = []
        for method, found in _answers(known, np.array(labels), asked):
            guesses = np.array([classes.index(str(label)) for label in found], np.float64)
            hits = (guesses == truth).astype(np.float64)
            for measure in (
                QualityMeasure(ACCURACY, names, hits, np.ones(len(hits))),
                QualityMeasure(F1, names, guesses, truth),
            ):
                scores.append(score_of(method, measure))
        return scores


def _document(each: LabelledText, name: str, text: str, is_original: bool = False) -> Document:
    end = [Part(MARK_CODEC, ORIGINAL, trained=False)] if is_original else []
    question = Part(TEXT, text, trained=False), Part(MARK_CODEC, MARK, trained=False)
    split = "heldout" if each.is_heldout else "train"
    return Document(name, (*question, Part(LABEL, each.label), *end), split, whole=True)  # type: ignore[arg-type]


def _taken_apart(document: Document) -> tuple[str, str]:
    """(text, class) of a document made of ids."""
    text = "".join(str(part.value) for part in document.parts if part.codec == TEXT)
    return text, next(str(part.value) for part in document.parts if part.codec == LABEL)


def _answers(
    known: Sequence[str], labels: NDArray[np.str_], asked: Sequence[str]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(method, its class of each text). Raises MissingExtra."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.naive_bayes import MultinomialNB
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "the baselines of labels") from error
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = words.fit_transform(known)
    test = words.transform(asked)
    yield "TF-IDF, linear SVM", LinearSVC(random_state=0).fit(train, labels).predict(test)
    yield "TF-IDF, naive Bayes", MultinomialNB(alpha=0.1).fit(train, labels).predict(test)
    names, counts = np.unique(labels, return_counts=True)
    yield "commonest class", np.full(len(asked), names[counts.argmax()])


FIELD = LabelsField()
