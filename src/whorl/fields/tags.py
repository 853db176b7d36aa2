"""Words and their tags: of which kind is this word here?

Each word is a document: the words around it, the word, and its tag, which alone is learned. So a
word is asked about on its own, by as many words to its right as to its left.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.core.errors import DataError, MissingExtra
from whorl.core.intervals import score_of
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.tasks import ChoiceTask
from whorl.fields import sequence_taggers
from whorl.fields.places import Places
from whorl.fields.sequence_taggers import signs_of
from whorl.fields.tag_files import EXCLUDED, SUFFIXES, Sentence, sentences_of
from whorl.fields.whole import (
    begins,
    check_sides,
    files_of,
    is_test,
    number_of,
    share_of,
    share_option,
    whole_items,
)

__all__ = ["FIELD", "TagsField", "question_of"]

TAG, MARK_CODEC, MARK = "tag", "special", "<|answer|>"
HERE = "_"  # in place of the word among its neighbours
MANY_FILES = 10  # from so many on whole files are held out
MAX_TAGS = 2_000
TASK = ChoiceTask()


def question_of(words: Sequence[str], place: int, window: int) -> str:
    """How a word of a sentence is asked about."""
    left = words[max(0, place - window) : place]
    right = words[place + 1 : place + 1 + window]
    return f" {' '.join((*left, HERE, *right))}\n {words[place]}"


@dataclass(frozen=True)
class TagsField:
    """One document per word."""

    name: str = "tags"
    task: Task = TASK
    logic_version: int = 2  # 2: a CRF stands beside it
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"column": "", "cut": "", "window": "3", "heldout": "0.1"},
            **{"words": "400000", "asked": "10000", "seed": "0"},
        }
    )
    sources: tuple[Source, ...] = ()

    def items(self, source: Source) -> list[Any]:
        return list(whole_items(source, SUFFIXES, EXCLUDED))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if all words have one tag, or far too many, SpecError on options."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        window, seed = number_of(options, "window"), number_of(options, "seed")
        sides = _sides(source, options, seed, reject)
        tags = {tag for side in sides.values() for each in side for tag in each.tags}
        if not 2 <= len(tags) <= MAX_TAGS:
            expected = f"2 to {MAX_TAGS:,} different tags; options.column says where they stand"
            found = f"{len(tags):,} different tags"
            raise DataError(f"source {source.source} has no tags", found=found, expected=expected)
        known = {tag for each in sides["train"] for tag in each.tags}
        for side, most in (("train", "words"), ("heldout", "asked")):
            limit = _limit(sides[side], number_of(options, most, 1))
            for each in sides[side]:
                for place, (name, tag) in enumerate(zip(_names_of(each), each.tags, strict=True)):
                    if share_of(seed, name) >= limit:
                        continue
                    if tag not in known:
                        Places.of(item, reject).at(None).refuse("held-out tag that nothing trains")
                        continue
                    asked = Part(TEXT, question_of(each.words, place, window), trained=False)
                    mark = Part(MARK_CODEC, MARK, trained=False)
                    parts = (asked, mark, Part(TAG, tag))
                    yield Document(name, parts, side, whole=True)  # type: ignore[arg-type]

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """The tags, and byte-level BPE of the words as they are asked."""
        tags, texts = set(), []
        for document in documents:
            tags |= {part.value for part in document.parts if part.codec == TAG}
            texts.append(str(document.parts[0].value))
        tag = LabelCodec.fit(tags, TAG)
        left_ids = int(options["vocab_size"]) - tag.num_ids
        return {TAG: tag, TEXT: train_text_codec(texts, left_ids, int(options["seed"]))}

    def with_sources(self, sources: tuple[Source, ...]) -> TagsField:
        """The field of these sources: documents are single words, a CRF needs their sentences."""
        return replace(self, sources=sources)

    def absent(self) -> str:
        """A method that would stand beside the model, and how to install it; "" if it does."""
        return sequence_taggers.absent()

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """The commonest tag of each word, a linear model of words and their ends, and a CRF of
        about as many words, in whole sentences."""
        known = [_taken_apart(document) for document in train]
        asked = [_taken_apart(document) for document in heldout]
        names, ones = tuple(document.name for document in heldout), np.ones(len(heldout))
        right = np.array([tag for _, tag in asked])
        answers = {
            "linear model of words and their ends": _linear(known, [text for text, _ in asked]),
            "commonest tag of the word": _commonest(known, [text for text, _ in asked]),
        }
        if (found := self._of_sentences(names)) is not None:
            answers["CRF of whole sentences"] = found
        return [
            score_of(
                method,
                QualityMeasure(self.task.metric, names, (found == right).astype(np.float64), ones),
            )
            for method, found in answers.items()
        ]

    def _of_sentences(self, names: Sequence[str]) -> NDArray[np.str_] | None:
        """What a CRF answers to the words of these names; None without one, or where sources are
        no longer those that the documents are of."""
        if not sequence_taggers.is_there() or not names:
            return None
        taught, wanted, asked = list[Sentence](), set(names), list[Sentence]()
        for source in self.sources:
            options = {**self.options, **source.options}
            seed, most = number_of(options, "seed"), number_of(options, "words", 1)
            sides = _sides(source, options, seed, lambda reason: None)
            drawn = sorted(sides["train"], key=lambda each: share_of(seed, each.name))
            counts = itertools.accumulate(len(each.words) for each in drawn)
            taught += [each for each, count in zip(drawn, counts, strict=True) if count <= most]
            asked += [each for each in sides["heldout"] if not wanted.isdisjoint(_names_of(each))]
        if not taught or not wanted <= {name for each in asked for name in _names_of(each)}:
            return None
        found = sequence_taggers.conditional_random_field(
            [each.words for each in taught],
            [each.tags for each in taught],
            [each.words for each in asked],
        )
        by_name = {
            name: tag
            for each, tags in zip(asked, found, strict=True)
            for name, tag in zip(_names_of(each), tags, strict=True)
        }
        return np.array([by_name[name] for name in names])


def _names_of(sentence: Sentence) -> list[str]:
    """Of the documents of its words."""
    return [f"{sentence.name}:{number}" for number in range(1, len(sentence.words) + 1)]


def _sides(
    source: Source, options: Mapping[str, str], seed: int, reject: Callable[[str], None]
) -> dict[str, list[Sentence]]:
    """Sentences to learn and to ask: by files named test…, by whole files, or by sentences.

    Raises DataError if one side has none.
    """
    share, files = share_option(options, "heldout"), files_of(source, SUFFIXES, EXCLUDED)
    has_test = any(map(is_test, files))
    order = sorted(files, key=lambda item: share_of(seed, item.name))
    held = {item.name for item in order[: round(share * len(files))]}
    sides: dict[str, list[Sentence]] = {"train": [], "heldout": []}
    for item in files:
        for each in sentences_of(item, options, Places.of(item, reject)):
            if has_test:
                is_held = is_test(item)
            elif len(files) >= MANY_FILES:
                is_held = item.name in held
            else:
                is_held = share_of(seed, *each.words) < share
            sides["heldout" if is_held else "train"].append(each)
    check_sides(source, "tagged sentences", *map(len, sides.values()))
    return sides


def _limit(sentences: Sequence[Sentence], most: int) -> float:
    """The share of all words of which about `most` are."""
    return most / max(1, sum(len(each.words) for each in sentences))


def _taken_apart(document: Document) -> tuple[str, str]:
    """(question, tag) of a document made of ids."""
    text = "".join(str(part.value) for part in document.parts if part.codec == TEXT)
    return text, next(str(part.value) for part in document.parts if part.codec == TAG)


def _commonest(known: Sequence[tuple[str, str]], asked: Sequence[str]) -> NDArray[np.str_]:
    """Of a word that was never seen the commonest tag of words that were seen once."""
    by_word: dict[str, Counter[str]] = {}
    for text, tag in known:
        by_word.setdefault(text.rpartition("\n")[2], Counter())[tag] += 1
    best = {word: min(counts, key=lambda t: (-counts[t], t)) for word, counts in by_word.items()}
    once = Counter(best[word] for word, counts in by_word.items() if counts.total() == 1)
    other = min(once or Counter(best.values()), key=lambda tag: (-once[tag], tag))
    return np.array([best.get(text.rpartition("\n")[2], other) for text in asked])


def _linear(known: Sequence[tuple[str, str]], asked: Sequence[str]) -> NDArray[np.str_]:
    """Raises MissingExtra."""
    try:
        from sklearn.feature_extraction import FeatureHasher
        from sklearn.linear_model import SGDClassifier
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "the baseline of tags") from error
    hasher = FeatureHasher(2**18, input_type="string")
    train = hasher.transform(_signs(text) for text, _ in known)
    model = SGDClassifier(max_iter=5, tol=None, average=True, random_state=0, n_jobs=-1)
    model.fit(train, np.array([tag for _, tag in known]))
    return np.asarray(model.predict(hasher.transform(map(_signs, asked))), np.str_)


def _signs(text: str) -> list[str]:
    """What the linear model is told of a word, as a CRF is."""
    around, _, word = text.rpartition("\n")
    left, _, right = f" {around} ".partition(f" {HERE} ")
    before = left.split()
    return signs_of([*before, word.strip(), *right.split()], len(before))


FIELD = TagsField()
