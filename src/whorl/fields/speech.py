"""Speech recognition: a sound is answered by what is said in it.

Sources are recordings with their texts (`whorl.fields.speech_files`), or `espeak:home`: sentences
of a small language spoken by espeak-ng, made by prepare. Of those the held-out ones are other
sentences in voices that nothing else is said in. Synthetic voices show that the whole works, not
that people are understood.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.audio import AudioShape, fit_audio_codec
from whorl.codecs.audio_files import Sound, Sounds, read_sound
from whorl.codecs.contract import TEXT
from whorl.codecs.text import NUM_BYTES, train_text_codec
from whorl.core.errors import DataError, MissingExtra
from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, WER
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Split, Task
from whorl.core.sources import DatasetItem
from whorl.core.tasks import WritingTask
from whorl.fields import recognisers, speakers
from whorl.fields.image_options import one_of
from whorl.fields.places import Places
from whorl.fields.speakers import Speaker
from whorl.fields.speech_files import Recording, recordings, speech_items
from whorl.fields.speech_words import graded
from whorl.fields.spoken_sentences import WORDS, drawn
from whorl.fields.whole import number_of, share_of, share_option

__all__ = [
    "AUDIO",
    "FIELD",
    "MARK",
    "PITCHES",
    "SPEEDS",
    "SpeechField",
    "codecs_of",
    "heard",
    "said_of",
    "sound_of",
    "split_of",
    "voices_of",
]

AUDIO, MARK = "audio", "<|answer|>"
SPOKEN = "espeak:home"
LOGIC_VERSION = 1
SHAPE = AudioShape(rate=8_000, frame_ms=40, num_bands=40, max_seconds=30.0)
NUM_BOOKS, NUM_CENTRES = 1, 512  # a second one doubles the positions, and words gain little
BATCH = 100  # sentences of one item
HELD_VOICES = 8  # every so many-th of espeak-ng's is held out
LONG_WORDS = 3  # of a sentence that may be held out; shorter ones are all said in training
HELD_SENTENCES = 0.2  # share of the sentences that are long enough
SPEEDS, PITCHES = (130, 211), (25, 76)
STRETCH = 0.12  # of the frequencies, as of larger and smaller heads
PAUSES_S, NOISE_DB, NOISY = 0.2, (15.0, 40.0), 0.5
ONE_VOICE = Speaker("en-us", "f2", 160, 50)  # for a model that speaks: the same in all sentences
ASKED_OTHERS = 40  # held-out sentences that other methods are asked
TASK = WritingTask(grade=graded, metric=WER, further=(ACCURACY,), max_tokens=64)


@dataclass(frozen=True)
class SpeechField:
    """<sound> <|answer|> <text>: only the text is learned."""

    name: str = "speech"
    task: Task = TASK
    logic_version: int = LOGIC_VERSION
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            "sentences": "8000",
            "heldout_sentences": "200",
            "heldout": "0.1",
            "voices": "all",
            "seed": "0",
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or has no sound with a text."""
        if source.source != SPOKEN:
            return list(speech_items(source))
        options = {**self.options, **source.options}
        counts = [number_of(options, key, 1) for key in ("heldout_sentences", "sentences")]
        identity = f"{speakers.identity()}, sentences {LOGIC_VERSION}"
        num_items = [-(-count // BATCH) for count in counts]
        return [
            DatasetItem(number, f"{identity}, {counts}, seed {options['seed']}, part {number}")
            for number in range(sum(num_items))
        ]

    def read(
        self,
        source: Source,
        item: Any,
        reject: Callable[[str], None],
        is_clean: bool = False,
    ) -> Iterator[Document]:
        """Raises MissingExtra, and SpecError on options that are no numbers.

        is_clean: what espeak-ng says is neither noisy nor distorted, in training too.
        """
        options = {**self.options, **source.options}
        if source.source == SPOKEN:
            yield from _spoken(options, int(item.number), is_clean)
            return
        share, seed = share_option(options, "heldout"), number_of(options, "seed")
        for recording, places in recordings(source, item, reject):
            sound = sound_of(recording, places)
            if sound is not None:
                split = split_of(recording, share, seed)
                yield Document(recording.name, _parts(sound, recording.text), split)

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
        """pocketsphinx, where it is installed, on the same spoken sentences, in full quality.

        It takes seconds for each, so it is asked the first ASKED_OTHERS of them.
        """
        said = [said_of(document.name) for document in heldout[:ASKED_OTHERS]]
        sentences = [each for each in said if each is not None]
        if not recognisers.is_there() or not sentences or len(sentences) < len(said):
            return []
        sounds = ((sound, speakers.RATE) for sound in speakers.spoken(sentences))
        answers = recognisers.pocketsphinx(sounds, WORDS)
        grades = [graded(a, text) for a, (text, _) in zip(answers, sentences, strict=True)]
        names = tuple(document.name for document in heldout[:ASKED_OTHERS])
        found, note = [], f"the words of these sentences; {len(names)} of {len(heldout)}"
        for metric in (WER, ACCURACY):
            numbers = np.array([grade[metric] for grade in grades]).T
            score = score_of("pocketsphinx", QualityMeasure(metric, names, *numbers), note=note)
            is_whole = len(names) == len(heldout)
            found.append(score if is_whole else replace(score, measure=None))
        return found


def codecs_of(
    documents: Iterable[Document], options: Mapping[str, Any], num_books: int, num_centres: int
) -> dict[str, Codec]:
    """Codebooks of the sounds, and byte-level BPE of the texts with the ids that are left."""
    texts: list[str] = []

    def sounds() -> Iterator[Sound]:
        for document in documents:
            texts.extend(part.value for part in document.parts if part.codec == TEXT)
            yield from (part.value for part in document.parts if part.codec == AUDIO)

    seed, room = int(options["seed"]), int(options["vocab_size"]) - NUM_BYTES
    centres = max(2, min(num_centres, room // num_books))
    audio = fit_audio_codec(sounds(), SHAPE, num_books, centres, seed)
    left = int(options["vocab_size"]) - audio.num_ids
    return {TEXT: train_text_codec(texts, left, seed), AUDIO: audio}


def _parts(sound: Sound, text: str) -> tuple[Part, ...]:
    return (
        Part(AUDIO, sound, trained=False),
        Part("special", MARK, trained=False),
        Part(TEXT, text),
    )


def sound_of(recording: Recording, places: Places) -> Sound | None:
    """Its samples; None: it is refused."""
    try:
        return read_sound(Path(recording.path), Sounds(SHAPE.rate, SHAPE.max_seconds))
    except (DataError, OSError) as error:
        words = error.what if isinstance(error, DataError) else "file cannot be read"
        places.refuse(words, recording.listed)
        return None


def split_of(recording: Recording, share: float, seed: int) -> Split:
    """As its list says; else by speaker, so that a voice is on one side, and by the sentence where
    nobody says who speaks."""
    if recording.split is not None:
        return recording.split
    who = recording.speaker or recording.text.casefold()
    return "heldout" if share_of(seed, who) < share else "train"


# ------------------------------------------------------------------ spoken by espeak-ng


def _spoken(options: Mapping[str, str], number: int, is_clean: bool) -> Iterator[Document]:
    """The sentences of one item; the first items are those that are held out."""
    seed = number_of(options, "seed")
    num_heldout = number_of(options, "heldout_sentences", 1)
    held_items = -(-num_heldout // BATCH)
    is_heldout = number < held_items
    place = number if is_heldout else number - held_items
    count = num_heldout if is_heldout else number_of(options, "sentences", 1)
    rng = random.Random(f"{seed} {is_heldout} {place}")
    is_one = one_of(options, "voices", ("all", "one")) == "one"
    voices = voices_of(is_heldout)
    asked = []
    for _ in range(min(BATCH, count - place * BATCH)):
        text = _sentence(rng, is_heldout, seed)
        speed, pitch = rng.randrange(*SPEEDS), rng.randrange(*PITCHES)
        voice = Speaker(rng.choice(speakers.ACCENTS), rng.choice(voices), speed, pitch)
        asked.append((text, ONE_VOICE if is_one else voice))
    for at, ((text, voice), sound) in enumerate(zip(asked, speakers.spoken(asked), strict=True)):
        noise = None if is_heldout or is_clean else np.random.default_rng([seed, place, at])
        name = f"{voice}: {text}" if is_heldout else f"{place}/{at} {voice}: {text}"
        split = "heldout" if is_heldout else "train"
        yield Document(name, _parts(heard(sound, noise), text), split)  # type: ignore[arg-type]


def voices_of(is_heldout: bool) -> list[str]:
    names = speakers.variants()
    return [name for at, name in enumerate(names) if (at % HELD_VOICES == 0) == is_heldout]


def _sentence(rng: random.Random, is_heldout: bool, seed: int) -> str:
    """One of the side that it belongs to; short ones are never held out."""
    while True:
        text = drawn(rng)
        is_held = len(text.split()) >= LONG_WORDS and share_of(seed, text) < HELD_SENTENCES
        if is_held == is_heldout:
            return text


def heard(sound: Sound, noise: np.random.Generator | None) -> Sound:
    """At the codec's rate; in training after a pause, with other formants, and often with noise."""
    try:
        import soxr
    except ImportError as error:
        raise MissingExtra.of("soxr", "audio", "spoken sentences") from error
    if noise is None:
        return np.asarray(soxr.resample(sound, speakers.RATE, SHAPE.rate), np.int16)
    rate = speakers.RATE * noise.uniform(1 - STRETCH, 1 + STRETCH)
    heard = soxr.resample(sound.astype(np.float32), rate, SHAPE.rate)
    pauses = [np.zeros(int(noise.uniform(0, PAUSES_S) * SHAPE.rate), np.float32) for _ in "ab"]
    heard = np.concatenate([pauses[0], heard, pauses[1]])
    if noise.random() < NOISY:
        below_db = noise.uniform(*NOISE_DB)
        size = np.sqrt(np.mean(heard**2)) * 10 ** (-below_db / 20)
        heard = heard + noise.normal(0, size, len(heard))
    return np.asarray(np.round(np.clip(heard, -32_768, 32_767)), np.int16)


def said_of(name: str) -> tuple[str, Speaker] | None:
    """The sentence and voice of a held-out document that espeak-ng spoke."""
    voice, mark, text = name.partition(": ")
    try:
        return (text, Speaker.read(voice)) if mark else None
    except ValueError:
        return None


FIELD = SpeechField()
