"""What a model of `recipes/speech.yaml` hears in a person's recordings: a test, never trained on.

    python benchmarks/speech_real.py speech
    python benchmarks/speech_real.py speech --sphinx --json

Debian's asterisk-core-sounds-en-wav (CC-BY-SA) has a woman saying figures and the spelling alphabet
at 8 kHz; the file's name is its label. Each file is sent to the server as its clients send it
(/v1/audio/transcriptions). One voice and a few dozen words: an anecdote, no measure of quality.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from own_server import transcribed, with_server

from whorl.core.home import home_folder
from whorl.fields.recognisers import pocketsphinx
from whorl.fields.speech_words import plain_words
from whorl.fields.spoken_sentences import DIGITS, PHONETIC, WORDS
from whorl.schemes.fetch import fetch

SOURCE = "debian:asterisk-core-sounds-en-wav=1.6.1-1/usr/share/asterisk/sounds/en_US_f_Allison/*/*"
TIMEOUT_S = 60.0  # of a request
Labelled = tuple[str, Path]


def recordings(folder: Path) -> dict[str, list[Labelled]]:
    """(word, file) by kind."""
    by_letter = {word[0]: word for word in PHONETIC}
    return {
        "digits": [(word, folder / "digits" / f"{n}.wav") for n, word in enumerate(DIGITS)],
        "phonetic": [
            (word, folder / "phonetic" / f"{letter}_p.wav") for letter, word in by_letter.items()
        ],
    }


def heard_by_model(model: str, files: Sequence[Path]) -> list[str]:
    def listen(client: httpx.Client, name: str, tokens: Any) -> list[str]:
        return transcribed(client, name, ((path.name, path.read_bytes()) for path in files))

    return with_server(model, listen, TIMEOUT_S)


def heard_by_pocketsphinx(files: Sequence[Path]) -> list[str]:
    import soundfile

    sounds = (soundfile.read(path, dtype="int16") for path in files)
    return pocketsphinx(sounds, WORDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a name of `whorl models`, or a folder")
    parser.add_argument("--sphinx", action="store_true", help="pocketsphinx as well")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    fetched = fetch(SOURCE, home_folder() / "sources")
    assert fetched is not None  # it has a scheme
    labelled = recordings(Path(fetched.source).parent.parent)
    files = [path for mine in labelled.values() for _, path in mine]
    heard = {chosen.model: heard_by_model(chosen.model, files)}
    if chosen.sphinx and find_spec("pocketsphinx"):
        heard["pocketsphinx, the words of the recipe"] = heard_by_pocketsphinx(files)
    told: dict[str, Any] = {}
    for method, answers in heard.items():
        left = iter(answers)
        told[method] = {
            kind: [[word, next(left)] for word, _ in mine] for kind, mine in labelled.items()
        }
    if chosen.json:
        print(json.dumps(told, indent=1))
        return
    for method, kinds in told.items():
        for kind, rows in kinds.items():
            right = sum(plain_words(word) == plain_words(answer) for word, answer in rows)
            wrong = [f"{w} as {a!r}" for w, a in rows if plain_words(w) != plain_words(a)]
            print(f"{method}: {right} of {len(rows)} {kind}; {', '.join(wrong) or 'all right'}")


if __name__ == "__main__":
    main()
