"""How well a model of `recipes/synthesis.yaml` speaks: understood, like its teacher, and in time.

    python benchmarks/speaking.py synthesis --listener speech
    python benchmarks/speaking.py synthesis --listener pocketsphinx --sentences 40 --json

Held-out sentences are said by the model, as its server's clients ask for it (/v1/audio/speech), and
by espeak-ng, its teacher. A recogniser writes down both, and the teacher's sound once more after it
went through the codec, which is the best that any model of these ids could say. Word error rates
with 95% intervals; the distance of log-mel frames to the teacher's, paired by dynamic time warping
(Sakoe and Chiba 1978), in decibels; and the time it took over the time it lasts.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import soundfile
from numpy.typing import NDArray
from own_server import transcribed, with_server

from whorl.codecs.audio import AudioCodec
from whorl.codecs.audio_files import Sound, sound_bytes
from whorl.core.intervals import interval_of
from whorl.core.metrics import WER
from whorl.core.ports import QualityMeasure, Source
from whorl.fields.recognisers import pocketsphinx
from whorl.fields.speech_words import graded
from whorl.fields.spoken_sentences import WORDS
from whorl.fields.synthesis import FIELD

TIMEOUT_S = 120.0  # of a request
SPHINX = "pocketsphinx"
NATS_TO_DB = 10 / np.log(10)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """Sounds of one speaker, and seconds that they took (0: nothing was waited for)."""

    name: str
    sounds: list[Sound]
    took_s: float = 0.0


def heldout_sentences(count: int) -> tuple[list[str], list[Sound]]:
    """Texts of held-out sentences in one voice, and the teacher's sounds."""
    options = {**FIELD.options, "voices": "one", "heldout_sentences": str(count)}
    source = Source("espeak:home", FIELD.name, options=options)
    texts, sounds = [], []
    for item in FIELD.items(source):
        for document in FIELD.read(source, item, lambda reason: None):
            if document.split != "heldout":
                return texts[:count], sounds[:count]
            texts.append(document.parts[0].value)
            sounds.append(document.parts[2].value)
    return texts[:count], sounds[:count]


def said_by_model(model: str, texts: Sequence[str]) -> tuple[Said, AudioCodec]:
    def say(client: httpx.Client, name: str, tokens: Any) -> tuple[Said, AudioCodec]:
        sounds, began_s = [], time.monotonic()
        for text in texts:
            body = {"model": name, "input": text, "voice": "default", "response_format": "wav"}
            answer = client.post("/v1/audio/speech", json=body).raise_for_status()
            sounds.append(soundfile.read(io.BytesIO(answer.content), dtype="int16")[0])
        return Said(model, sounds, time.monotonic() - began_s), tokens.codecs["audio"]

    return with_server(model, say, TIMEOUT_S)


def heard_by(listener: str, sounds: Sequence[Sound], rate: int) -> list[str]:
    if listener == SPHINX:
        return pocketsphinx(((sound, rate) for sound in sounds), WORDS)

    def listen(client: httpx.Client, name: str, tokens: Any) -> list[str]:
        files = (("said.wav", sound_bytes(sound, rate)) for sound in sounds)
        return transcribed(client, name, files)

    return with_server(listener, listen, TIMEOUT_S)


def mel_distance(one: Floats, other: Floats) -> float:
    """The mean distance of frames along the cheapest way through both, root of the mean square of
    the bands, in decibels."""
    costs = np.sqrt(((one[:, None] - other[None]) ** 2).mean(-1)) * NATS_TO_DB
    best = np.full((len(one) + 1, len(other) + 1), np.inf)
    steps = np.zeros_like(best)
    best[0, 0] = 0
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            before = min((best[i - 1, j - 1], steps[i - 1, j - 1]),
                         (best[i - 1, j], steps[i - 1, j]),
                         (best[i, j - 1], steps[i, j - 1]))  # fmt: skip
            best[i, j], steps[i, j] = before[0] + costs[i - 1, j - 1], before[1] + 1
    return float(best[-1, -1] / steps[-1, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a name of `whorl models`, or a folder")
    parser.add_argument("--listener", default=SPHINX, help=f"{SPHINX}, or a model of speech")
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    texts, taught = heldout_sentences(chosen.sentences)
    spoken, codec = said_by_model(chosen.model, texts)
    through = Said("espeak-ng through the codec", [codec.decode(codec.encode(s)) for s in taught])
    told = []
    for said in (Said("espeak-ng, the teacher", taught), through, spoken):
        answers = heard_by(chosen.listener, said.sounds, codec.rate)
        grades = [graded(a, t)[WER] for a, t in zip(answers, texts, strict=True)]
        measure = QualityMeasure(WER, tuple(texts), *np.array(grades, np.float64).T)
        found = interval_of(measure)
        distances = [
            mel_distance(codec.frames(a), codec.frames(b))
            for a, b in zip(said.sounds, taught, strict=True)
        ]
        lasts_s = sum(map(len, said.sounds)) / codec.rate
        row = {"said by": said.name, "wer": found.value, "low": found.low, "high": found.high}
        row |= {"mel_distance_db": float(np.mean(distances)), "seconds": lasts_s}
        told.append({**row, "real_time_factor": said.took_s / lasts_s if said.took_s else None})
    if chosen.json:
        print(json.dumps({"listener": chosen.listener, "sentences": len(texts), "rows": told}))
        return
    print(f"{len(texts)} held-out sentences, written down by {chosen.listener}")
    for row in told:
        factor = row["real_time_factor"]
        late = "" if factor is None else f", {factor:.2f} s for a second of sound"
        print(f"{row['said by']}: WER {row['wer']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
              f"{row['mel_distance_db']:.1f} dB from the teacher{late}")  # fmt: skip


if __name__ == "__main__":
    main()
