"""Translation: a text in one language, then the same in another; one model of all directions.

What is asked begins with the direction, `en > es`. Held out are whole groups of pairs (packages,
documents) where a row says which, else pairs; what is trained on in either language is not asked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT
from whorl.codecs.text import train_text_codec
from whorl.core.errors import MissingExtra
from whorl.core.intervals import score_of
from whorl.core.measures import measure_of
from whorl.core.memory import forgets
from whorl.core.metrics import BLEU, CHRF, Grade, Metric
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.tasks import WritingTask
from whorl.fields import translators
from whorl.fields.pair_files import SUFFIXES, Pair, pairs_of
from whorl.fields.places import Places
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

__all__ = ["FIELD", "TranslationField", "graded", "question_of"]

MARK_CODEC, MARK = "special", "<|answer|>"
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
WITHOUT_BLANKS = re.compile("[\u3040-\u30ff\u0e00-\u0eff]")  # kana, Thai, Lao
MAX_TOKENS = 160  # of an answer


def question_of(source: str, target: str, text: str) -> str:
    """How a translation is asked for."""
    return f"{source} > {target}\n{text}"


def graded(answer: str, right: str) -> dict[Metric, Grade]:
    """What chrF and BLEU of all texts are made of, as sacrebleu counts it; words are those of the
    right text's script.

    Raises MissingExtra.
    """
    chrf, bleu = _counters(_words_of(right))
    (signs,) = chrf._extract_corpus_statistics([answer], [[right]])  # (given, right, common) x 6
    words = bleu.sentence_score(answer, [right])
    return {
        CHRF: ([*signs[::3], *signs[2::3]], signs[1::3]),
        BLEU: ([words.sys_len, *words.counts, *words.totals], [words.ref_len]),
    }


@functools.cache
def _counters(tokenizer: str) -> tuple[Any, Any]:
    """sacrebleu's chrF and BLEU. Raises MissingExtra."""
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingExtra.of("sacrebleu", "translation", "a translation's score") from error
    return sacrebleu.CHRF(), sacrebleu.BLEU(tokenize=tokenizer, effective_order=True)


forgets(_counters.cache_clear)


def _words_of(text: str) -> str:
    """The tokeniser of sacrebleu: Japanese and Thai have no blanks, Chinese but among others."""
    if WITHOUT_BLANKS.search(text):
        return "char"
    return "zh" if CHINESE.search(text) else "13a"


def _direction(name: str) -> str:
    """en>es, of a document's name."""
    return name.rpartition(" ")[2]


TASK = WritingTask(
    grade=graded,
    metric=CHRF,
    further=(BLEU,),
    max_tokens=MAX_TOKENS,
    group=_direction,
)


@dataclass(frozen=True)
class TranslationField:
    """Two documents per pair, one a direction; the translation is learned."""

    name: str = "translation"
    task: Task = TASK
    logic_version: int = 3  # 2: apertium stands beside it; 3: figures of all texts together
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"languages": "", "group": "", "most": "240"},
            **{"heldout": "0.05", "asked": "100", "seed": "0"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no such file."""
        return list(whole_items(source, SUFFIXES))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if nothing is left to learn or to ask, SpecError on wrong options."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        asked, seed = number_of(options, "asked", 1), number_of(options, "seed")
        train, heldout = _sides(source, options, seed, reject)
        _tell_languages(train, Places.of(item, reject))
        for pair in train:
            yield from _documents(pair, "train")
        counts: dict[tuple[str, ...], int] = {}
        for pair in sorted(heldout, key=lambda each: share_of(seed, "asked", *each.texts)):
            codes = tuple(code for code, _ in pair.texts)
            counts[codes] = counts.get(codes, 0) + 1
            if counts[codes] <= asked:
                yield from _documents(pair, "heldout")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Byte-level BPE of both languages: each text is somewhere an answer."""
        texts = (str(document.parts[2].value) for document in documents)
        return {TEXT: train_text_codec(texts, int(options["vocab_size"]), int(options["seed"]))}

    def absent(self) -> str:
        """A method that would stand beside the model, and how to install it; "" if it does."""
        if translators.is_there():
            return ""
        return f"{translators.PROGRAM} is not installed: {translators.INSTALL}"

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """The text itself, copied; and apertium in the directions that it has."""
        names = [document.name for document in heldout]
        texts, right = zip(*map(_taken_apart, heldout), strict=True) if heldout else ((), ())
        scores = _scored("copying", names, texts, right)
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(_direction(name), []).append(place)
        answers: dict[int, str] = {}
        for direction, mine in places.items():
            if (mode := translators.mode_of(*direction.split(">"))) is not None:
                found = translators.apertium(mode, [texts[place] for place in mine])
                answers.update(zip(mine, found, strict=True))
        if answers:
            mine = sorted(answers)
            asked = [names[place] for place in mine], [answers[place] for place in mine]
            scores += _scored(translators.PROGRAM, *asked, [right[place] for place in mine])
        return scores


def _scored(
    method: str, names: Sequence[str], answers: Sequence[str], right: Sequence[str]
) -> list[Score]:
    grades = [graded(*pair) for pair in zip(answers, right, strict=True)]
    return [
        score_of(method, measure_of(metric, names, [grade[metric] for grade in grades]))
        for metric in (CHRF, BLEU)
    ]


def _documents(pair: Pair, split: str) -> Iterator[Document]:
    for (code, text), (other, right) in (pair.texts, pair.texts[::-1]):
        question = Part(TEXT, question_of(code, other, text), trained=False)
        parts = (question, Part(MARK_CODEC, MARK, trained=False), Part(TEXT, right))
        yield Document(f"{pair.name} {code}>{other}", parts, split, whole=True)  # type: ignore[arg-type]


def _taken_apart(document: Document) -> tuple[str, str]:
    """(text without its direction, translation) of a document made of ids."""
    question, right = (str(part.value) for part in document.parts if part.codec == TEXT)
    return question.partition("\n")[2], right


def _sides(
    source: Source, options: Mapping[str, str], seed: int, reject: Callable[[str], None]
) -> tuple[list[Pair], list[Pair]]:
    """(pairs to learn, pairs to ask). Files whose names begin with test are held out, else a share
    of the groups. Raises DataError if one side has none."""
    share, most = share_option(options, "heldout"), number_of(options, "most", 1)
    files = files_of(source, SUFFIXES)
    has_test = any(map(is_test, files))
    train: dict[tuple[tuple[str, str], ...], Pair] = {}
    held: list[tuple[Pair, Places, int | None]] = []
    seen = set()
    for pair, places, line in pairs_of(files, options, reject):
        if any(len(text) > most for _, text in pair.texts):
            places.refuse(f"text of more than {most} signs", "options.most says how many")
        elif pair.texts in seen:
            places.refuse("pair that is there already")
        else:
            seen.add(pair.texts)
            words = pair.group or pair.texts[0][1].casefold()
            is_held = is_test(places.item) if has_test else share_of(seed, words) < share
            if is_held:
                held.append((pair, places, line))
            else:
                train[pair.texts] = pair
    known = {(code, text.casefold()) for texts in train for code, text in texts}
    asked = []
    for pair, places, line in held:
        if any((code, text.casefold()) in known for code, text in pair.texts):
            places.at(line).refuse("held-out pair of a text that is trained on")
        else:
            asked.append(pair)
    check_sides(source, "pairs", len(train), len(asked))
    return list(train.values()), asked


def _tell_languages(pairs: Sequence[Pair], places: Places) -> None:
    for codes in sorted({tuple(code for code, _ in pair.texts) for pair in pairs}):
        places.at(None).tell(f"languages: {' and '.join(codes)}")


FIELD = TranslationField()
