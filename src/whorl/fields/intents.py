"""Intents of a smart home: a sentence is answered by what is meant, as JSON.

Sources are files of intents as the package home-assistant-intents has them, such as
`pypi:home-assistant-intents==2026.10.27/home_assistant_intents/data/en.json`. Held out are whole
templates: no sentence of one is trained on, nor one that another template gives as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, TEXT
from whorl.core.errors import DataError, MissingExtra
from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, SLOT_F1, Metric
from whorl.core.ports import Codec, Document, Grammar, Part, QualityMeasure, Score, Source, Task
from whorl.core.tasks import WritingTask
from whorl.fields.chat import FIELD as CHAT_FIELD
from whorl.fields.files import file_items
from whorl.fields.intent_sentences import Templates, grammar_answers
from whorl.fields.places import Places

__all__ = ["FIELD", "MARK", "IntentsField", "graded", "installed_data"]

SYSTEM = "JSON"  # short, as every sentence pays for it; without one templates write a longer one
PACKAGE = "home_assistant_intents"
MARK = '{"intent"'  # how every answer begins
MAX_TOKENS = 64  # of an answer; the longest of these has 41
SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"type": "string", "pattern": "^[A-Za-z]+$"},
        "slots": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
    },
    "required": ["intent", "slots"],
    "additionalProperties": False,
}


def graded(answer: str, right: str) -> dict[Metric, tuple[float, float]]:
    """Of an answer beside the right one: whether the intent is right; the F1 of its slots.

    A slot is right if name and value are: twice the right ones over the slots of both, and 1 where
    neither has any. An answer that is no JSON has no intent, and 0 of the slots.
    """
    given, truth = _read(answer), json.loads(right)
    slots, f1 = given.get("slots"), 0.0
    if isinstance(slots, dict):
        mine, true = set(_pairs(slots)), set(_pairs(truth["slots"]))
        f1 = 2 * len(mine & true) / (len(mine) + len(true)) if mine or true else 1.0
    return {ACCURACY: (float(given.get("intent") == truth["intent"]), 1.0), SLOT_F1: (f1, 1.0)}


def _read(answer: str) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _pairs(slots: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Numbers are equal to themselves written as text: nobody hears the difference."""
    for name, value in slots.items():
        is_whole = isinstance(value, float) and value.is_integer()
        yield name, str(int(value) if is_whole else value).strip().casefold()


def _is_answer(prompt: str, answer: str) -> bool:
    return {"intent", "slots"} <= _read(answer).keys()


TASK = WritingTask(
    metric=ACCURACY,
    further=(SLOT_F1,),
    grade=graded,
    max_tokens=MAX_TOKENS,
    grammar=Grammar("json_schema", json.dumps(SCHEMA)),
    checker="JSON with an intent and slots",
    check=_is_answer,
)


@dataclass(frozen=True)
class IntentsField:
    """A chat per sentence; judged by the answers that are written."""

    name: str = "intents"
    task: Task = TASK
    logic_version: int = 3
    options: Mapping[str, str] = field(
        default_factory=lambda: {"sentences": "4000", "heldout_per_template": "2", "seed": "0"}
    )

    def items(self, source: Source) -> list[Any]:
        """Files of intents, one for each language. Raises DataError if there is none."""
        return list(file_items(source, (".json",), (".*",)))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError on a file of another kind, SpecError or MissingExtra."""
        if not item.is_read:
            Places.of(item, reject).refuse_item()
            return
        options = {**self.options, **source.options}
        try:
            data = json.loads(Path(item.path).read_bytes())
            numbers = [int(options[key]) for key in self.options]
        except ValueError as error:
            raise DataError(f"{item.name} or its options cannot be read", found=error) from error
        for example in Templates(data).examples(*numbers):
            said = {"system": SYSTEM, "user": example.text, "assistant": example.answer}
            chat = {"messages": [{"role": role, "content": text} for role, text in said.items()]}
            split = "heldout" if example.is_heldout else "train"
            yield Document(f"{item.name}: {example.text}", (Part(CHAT, chat),), split)  # type: ignore[arg-type]

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        return CHAT_FIELD.fit_codecs(documents, options)

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """A linear model of words for the intent alone; hassil, where its templates are installed.

        hassil reads the held-out templates too: it is what they were drawn from.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.pipeline import make_pipeline
            from sklearn.svm import LinearSVC
        except ImportError as error:
            raise MissingExtra.of("scikit-learn", "train", "the baseline of intents") from error
        asked, intents, _ = zip(*(_taken_apart(document) for document in train), strict=True)
        names = tuple(document.name for document in heldout)
        right = np.array([_taken_apart(document)[1] for document in heldout])
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(words, LinearSVC(random_state=0)).fit(asked, intents)
        found = model.predict([_taken_apart(document)[0] for document in heldout])
        measure = QualityMeasure(
            ACCURACY, names, (found == right).astype(np.float64), np.ones(len(names))
        )
        linear = score_of("TF-IDF of words and pairs, LinearSVC", measure, note="intent alone")
        return [linear, *_of_grammar(heldout)]


def installed_data(document_name: str) -> dict[str, Any] | None:
    """The templates of the file that a document is of, as they are installed; None: they are not,
    or hassil is not."""
    file = document_name.partition(": ")[0].rpartition("/")[2]
    package = find_spec(PACKAGE)
    folders = (package.submodule_search_locations if package else None) or ["."]
    path = Path(folders[0], "data", file)
    if not path.is_file() or find_spec("hassil") is None:
        return None
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def _of_grammar(heldout: Sequence[Document]) -> list[Score]:
    """Both metrics of hassil over the templates that are installed; [] if they are not."""
    data = installed_data(heldout[0].name)
    if data is None:
        return []
    sentences = [document.name.partition(": ")[2] for document in heldout]
    answers = grammar_answers(data, sentences)
    grades = [
        graded(json.dumps(answer), _taken_apart(document)[2])
        for answer, document in zip(answers, heldout, strict=True)
    ]
    names, scores = tuple(document.name for document in heldout), []
    for metric in (ACCURACY, SLOT_F1):
        numerator, denominator = np.array([grade[metric] for grade in grades]).T
        measure = QualityMeasure(metric, names, numerator, denominator)
        scores.append(score_of("hassil, all templates", measure, note="held-out ones too"))
    return scores


def _taken_apart(document: Document) -> tuple[str, str, str]:
    """(all before the answer, the right intent, the right answer) of a document made of ids."""
    texts = [str(part.value) for part in document.parts if part.codec == TEXT]
    before, mark, answer = "\n".join(texts).rpartition(MARK)
    value, _ = json.JSONDecoder().raw_decode(mark + answer)
    return before, value["intent"], json.dumps(value)


FIELD = IntentsField()
