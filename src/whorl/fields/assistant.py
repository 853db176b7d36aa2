"""A voice assistant: what is meant by a sentence that is said or typed?

Sources are files of intents, as of `intents`, whose sentences espeak-ng speaks; or recordings with
their meanings in a table (path, text, intent, slots). A spoken sentence is answered by its words
and, behind a second mark, by what they mean; a typed one stands where those words would stand. Of
templates the held-out ones are whole; they are spoken in voices that nothing else is said in.
Synthetic voices show that the whole works, not that people are understood.
"""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.audio_files import Sound
from whorl.codecs.contract import TEXT
from whorl.core import streams
from whorl.core.errors import DataError
from whorl.core.intervals import score_of
from whorl.core.memory import forgets
from whorl.core.metrics import ACCURACY, SLOT_F1, TYPED_ACCURACY, WER, Metric
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Split, Task
from whorl.core.reasons import Place, Reason
from whorl.core.sources import DatasetItem, FileItem
from whorl.core.tasks import WritingTask
from whorl.fields import intents, recognisers, speakers
from whorl.fields.files import file_items
from whorl.fields.intent_sentences import Example, Templates, grammar_answers
from whorl.fields.speakers import Speaker
from whorl.fields.speech import (
    AUDIO,
    MARK,
    PITCHES,
    SPEEDS,
    codecs_of,
    heard,
    said_of,
    sound_of,
    split_of,
    voices_of,
)
from whorl.fields.speech_files import listed_recordings, recordings, speech_items
from whorl.fields.speech_words import edits, plain_words
from whorl.fields.whole import LastSources, key_of, number_of, share_option

__all__ = ["FIELD", "AssistantField", "graded"]

SPOKEN, TYPED = "spoken ", "typed "  # how names of documents begin
NUM_BOOKS, NUM_CENTRES = 1, 512
BATCH, MOST_PARTS = 100, 1_000_000  # sentences of one item; items of one file
LOGIC_VERSION = 1
MAX_TOKENS = 128  # of the words and what they mean
MEANT = intents.MARK  # how what is meant begins
TAUGHT = "typed sentence that is said in training"

TEMPLATES, OTHER = "templates", "other json"  # kinds of items
MAX_BYTES = 2**26  # of a file of templates, unpacked
_FILES: LastSources[list[FileItem]] = LastSources()  # of templates, as last listed
_TAUGHT: LastSources[frozenset[str]] = LastSources()  # what is said in training, as last listed
forgets(_FILES.clear)
forgets(_TAUGHT.clear)


def graded(answer: str, right: str) -> Mapping[Metric, tuple[float, float]]:
    """Of words and meaning, or of the meaning alone: the intent, its slots, and the words."""
    given, truth = (_taken_apart(text) for text in (answer, right))
    grades = intents.graded(given[1], truth[1])
    words, right_words = plain_words(given[0]), plain_words(truth[0])
    return {
        **grades,
        TYPED_ACCURACY: grades[ACCURACY],
        WER: (float(edits(words, right_words)), float(len(right_words))),
    }


def _taken_apart(text: str) -> tuple[str, str]:
    """(words, meaning) of an answer."""
    words, mark, meaning = text.partition(MEANT)
    return words, mark + meaning


def _is_spoken(name: str) -> bool:
    return name.startswith(SPOKEN)


def _is_typed(name: str) -> bool:
    return not name.startswith(SPOKEN)


TASK = WritingTask(
    grade=graded,
    metric=ACCURACY,
    further=(TYPED_ACCURACY, SLOT_F1, WER),
    max_tokens=MAX_TOKENS,
    where={
        **dict.fromkeys((ACCURACY, SLOT_F1, WER), _is_spoken),
        TYPED_ACCURACY: _is_typed,
    },
)


@dataclass(frozen=True)
class AssistantField:
    """<sound> <|answer|> words <|answer|> meaning; or words <|answer|> meaning."""

    name: str = "assistant"
    task: Task = TASK
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            "sentences": "4000",
            "heldout_per_template": "1",
            "spoken": "2",
            "heldout_spoken": "150",
            "heldout": "0.1",
            "seed": "0",
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Files of intents, and parts of what is said. Raises DataError if there is none."""
        options = _checked({**self.options, **source.options})
        files = _template_files(source)
        if not any(item.kind == TEMPLATES for item in files):
            _TAUGHT.clear()
            return list(speech_items(source))
        _FILES.clear()
        found: list[Any] = [*files]
        for place, item in enumerate(item for item in files if item.is_read):
            counts = [len(side) for side in _asked(item, options)]
            identity = f"{speakers.identity()}, assistant {LOGIC_VERSION}, file {place}"
            parts = sum(-(-count // BATCH) for count in counts)
            found += [DatasetItem(place * MOST_PARTS + n, f"{identity}, {n}") for n in range(parts)]
        return found

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError on a file of another kind, SpecError or MissingExtra."""
        options = _checked({**self.options, **source.options})
        if isinstance(item, DatasetItem):
            place, number = divmod(item.number, MOST_PARTS)
            yield from _spoken(_known_files(source)[place], options, number)
        elif item.kind not in (TEMPLATES, OTHER):
            yield from _recorded(source, item, options, reject)
        else:
            for example in _examples(item, options):
                split: Split = "heldout" if example.is_heldout else "train"
                name = f"{TYPED}{item.name}: {example.text}"
                yield Document(name, _typed_parts(example.text, example.answer), split, whole=True)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        return codecs_of(documents, options, NUM_BOOKS, NUM_CENTRES)

    def absent(self) -> str:
        """A method that would stand beside the model, and how to install it; "" if it does."""
        return recognisers.absent()

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """hassil on what is typed; on what pocketsphinx hears where it is installed.

        Its templates are all of the package's, the held-out ones too. The recogniser is told the
        words of the held-out sentences.
        """
        data = intents.installed_data(heldout[0].name.removeprefix(SPOKEN).removeprefix(TYPED))
        if data is None:
            return []
        typed = [document for document in heldout if not _is_spoken(document.name)]
        spoken = [document for document in heldout if _is_spoken(document.name)]
        found = _scores("hassil, all templates", typed, [_text(d) for d in typed], data)
        sentences = [_said(document.name) for document in spoken]
        if recognisers.is_there() and spoken and all(sentences):
            words = sorted({word for d in spoken for word in plain_words(_text(d))})
            sounds = ((s, speakers.RATE) for s in speakers.spoken(s for s in sentences if s))
            texts = recognisers.pocketsphinx(sounds, words)
            found += _scores("pocketsphinx, then hassil", spoken, texts, data)
        return found


def _checked(options: Mapping[str, str]) -> Mapping[str, str]:
    """Raises SpecError on a number that is none."""
    for key in ("sentences", "heldout_per_template", "spoken", "heldout_spoken"):
        number_of(options, key, 1)
    number_of(options, "seed")
    return options


def _template_files(source: Source) -> list[FileItem]:
    """The .json of a source, each as what it is: without TEMPLATES the source is recordings."""
    try:
        files = file_items(source, (".json",), (".*",))
    except DataError:
        return []
    return [
        replace(item, kind=TEMPLATES if "intents" in _data(_file_key(item)) else OTHER)
        if item.is_read
        else item
        for item in files
    ]


def _known_files(source: Source) -> list[FileItem]:
    """Those that are read, as last found in this process: nothing is walked again for a part."""
    key = key_of(source)
    if key not in _FILES:
        _FILES[key] = [item for item in _template_files(source) if item.is_read]
    return _FILES[key]


def _file_key(item: FileItem) -> tuple[str, str, int, str, int]:
    """Of a file as it is now: path, root, size, encoding, when it was changed."""
    changed_ns = os.stat(item.path).st_mtime_ns
    return item.path, item.root, item.num_bytes, item.encoding, changed_ns


@functools.lru_cache(maxsize=8)
def _data(key: tuple[str, str, int, str, int]) -> Mapping[str, Any]:
    """{} of what is no file of templates, or longer than MAX_BYTES."""
    try:
        with streams.open_source(*key[:4]) as opened:
            data = opened.content.read(MAX_BYTES + 1)
            value = json.loads(data) if len(data) <= MAX_BYTES and not opened.fault else {}
    except (streams.SourceFault, OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _recorded(
    source: Source, item: FileItem, options: Mapping[str, str], reject: Callable[[str], None]
) -> Iterator[Document]:
    """Each recording as it was said, and its text as if it was typed.

    A sentence that another voice says in training is no typed question: its answer is known.
    """
    share, seed = share_option(options, "heldout"), number_of(options, "seed")
    for recording, places in recordings(source, item, reject):
        if not recording.meaning:
            places.refuse(recording.no_meaning, recording.listed)
            continue
        sound = sound_of(recording, places)
        if sound is not None:
            split = split_of(recording, share, seed)
            name, text, meaning = recording.name, recording.text, recording.meaning
            yield Document(f"{SPOKEN}{name}", _spoken_parts(sound, text, meaning), split, True)
            if split == "heldout" and _plain(text) in _taught(source, share, seed):
                places.reject(Reason(TAUGHT, "passed over", Place(name)))
            else:
                yield Document(f"{TYPED}{name}: {text}", _typed_parts(text, meaning), split, True)


def _taught(source: Source, share: float, seed: int) -> frozenset[str]:
    """The sentences of training recordings; texts beside sounds are split by their words alone."""
    key = (*key_of(source), share, seed)
    if key not in _TAUGHT:
        rows = (row for row in listed_recordings(source) if row.meaning)
        _TAUGHT[key] = frozenset(
            _plain(row.text) for row in rows if split_of(row, share, seed) == "train"
        )
    return _TAUGHT[key]


def _plain(text: str) -> str:
    return " ".join(plain_words(text))


def _typed_parts(text: str, meaning: str) -> tuple[Part, ...]:
    return Part(TEXT, text, False), Part("special", MARK, False), Part(TEXT, meaning)


def _spoken_parts(sound: Sound, text: str, meaning: str) -> tuple[Part, ...]:
    """The second mark is written by the model, too."""
    asked = Part(AUDIO, sound, False), Part("special", MARK, False)
    return *asked, Part(TEXT, text), Part("special", MARK), Part(TEXT, meaning)


def _examples(item: FileItem, options: Mapping[str, str]) -> list[Example]:
    """Raises DataError on a file of another kind."""
    keys = ("sentences", "heldout_per_template", "seed")
    return _drawn(_file_key(item), *(number_of(options, key) for key in keys))


@functools.lru_cache(maxsize=2)
def _drawn(
    key: tuple[str, str, int, str, int], num_sentences: int, num_heldout: int, seed: int
) -> list[Example]:
    """Once for all parts of a file: reading its templates takes a second."""
    return list(Templates(_data(key)).examples(num_sentences, num_heldout, seed))


forgets(_data.cache_clear)
forgets(_drawn.cache_clear)


def _asked(item: FileItem, options: Mapping[str, str]) -> tuple[list[Example], list[Example]]:
    """(held-out sentences that are spoken, the others, as often as options.spoken says)."""
    examples = _examples(item, options)
    held = [example for example in examples if example.is_heldout]
    rng = random.Random(f"{options['seed']} spoken")
    some = rng.sample(held, min(len(held), number_of(options, "heldout_spoken")))
    others = [example for example in examples if not example.is_heldout]
    return some, others * number_of(options, "spoken")


def _spoken(item: FileItem, options: Mapping[str, str], number: int) -> Iterator[Document]:
    """Sentences of one part; the first parts are those that are held out."""
    held, others = _asked(item, options)
    held_parts = -(-len(held) // BATCH)
    is_heldout = number < held_parts
    place = number if is_heldout else number - held_parts
    mine = (held if is_heldout else others)[place * BATCH : (place + 1) * BATCH]
    seed = number_of(options, "seed")
    rng = random.Random(f"{seed} {is_heldout} {place} voices")
    names = voices_of(is_heldout)
    asked = []
    for example in mine:
        speed, pitch = rng.randrange(*SPEEDS), rng.randrange(*PITCHES)
        voice = Speaker(rng.choice(speakers.ACCENTS), rng.choice(names), speed, pitch)
        asked.append((example.text, voice))
    split: Split = "heldout" if is_heldout else "train"
    for at, ((text, voice), sound) in enumerate(zip(asked, speakers.spoken(asked), strict=True)):
        noise = None if is_heldout else np.random.default_rng([seed, place, at])
        name = f"{SPOKEN}{item.name}: {place}/{at} {voice}: {text}"
        parts = _spoken_parts(heard(sound, noise), text, mine[at].answer)
        yield Document(name, parts, split, whole=True)


def _said(name: str) -> tuple[str, Speaker] | None:
    """The sentence and voice of a spoken document."""
    return said_of(name.partition(": ")[2].partition(" ")[2])  # behind its number


def _text(document: Document) -> str:
    """The sentence of a document by its name."""
    return document.name.rpartition(": ")[2]


def _scores(
    name: str, documents: Sequence[Document], texts: Sequence[str], data: Mapping[str, Any]
) -> list[Score]:
    """Of what hassil makes of texts."""
    if not documents:
        return []
    answers = grammar_answers(data, list(texts))
    grades = []
    for document, text, answer in zip(documents, texts, answers, strict=True):
        right = "".join(str(part.value) for part in document.parts if part.codec == TEXT)
        right = right[right.index(MEANT) :]
        said, heard_words = (
            (_text(document), text) if _is_spoken(document.name) else ("", "")
        )  # of what is typed the meaning alone is asked
        grades.append(graded(f"{heard_words}{json.dumps(answer)}", f"{said}{right}"))
    names, found = tuple(document.name for document in documents), []
    for metric in TASK.where:
        if TASK.is_of(metric, names[0]):
            numbers = np.array([grade[metric] for grade in grades], np.float64).T
            found.append(score_of(name, QualityMeasure(metric, names, *numbers)))
    return found


FIELD = AssistantField()
