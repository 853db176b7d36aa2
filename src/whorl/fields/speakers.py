"""espeak-ng in a process of its own: a sentence in a voice is the same samples, always.

The library remembers things from one sentence to the next, so each is spoken by a fork that has
said nothing before. It is under the GPL, which is one more reason to keep it apart.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.children import start_child
from whorl.core.errors import DataError, MissingExtra

__all__ = ["ACCENTS", "RATE", "Speaker", "identity", "serve", "spoken", "variants"]

RATE = 22_050  # of what espeak-ng says
PACKAGE = "espeakng_loader"
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
# Variants that nobody could be: whispering, croaking, robots without a voice.
LEFT_OUT = ("whisper", "whisperf", "croak", "Demonic", "UniRobot", "AnxiousAndy", "fast")
SYNCHRONOUS, NO_EXIT = 2, 0x8000
SPEED, PITCH, UTF8 = 1, 3, 1  # espeak_RATE, espeak_PITCH, espeakCHARS_UTF8
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Speaker:
    """An accent, one of espeak-ng's variants of a voice, words a minute and pitch (0 to 99)."""

    accent: str
    variant: str
    speed: int
    pitch: int

    def __str__(self) -> str:
        return f"{self.accent}+{self.variant}/{self.speed}/{self.pitch}"

    @classmethod
    def read(cls, text: str) -> Speaker:
        """The voice of its text."""
        name, speed, pitch = text.rsplit("/", 2)
        accent, _, variant = name.partition("+")
        return cls(accent, variant, int(speed), int(pitch))


def identity() -> str:
    """Of what speaks. Raises MissingExtra if it is not installed."""
    _loader()
    return f"espeakng-loader {metadata.version('espeakng-loader')}"


def variants() -> list[str]:
    """Names of the voices, in a fixed order."""
    folder = os.path.join(_loader().get_data_path(), "voices", "!v")
    return sorted(name for name in os.listdir(folder) if name not in LEFT_OUT)


def spoken(sentences: Iterable[tuple[str, Speaker]]) -> Iterator[NDArray[np.int16]]:
    """The samples of each sentence at RATE. Raises MissingExtra, or DataError if one fails."""
    _loader()
    process = start_child("whorl.fields.speakers:serve")
    assert process.stdin is not None and process.stdout is not None
    try:
        for text, voice in sentences:
            told = f"{voice}: {text}"
            try:
                process.stdin.write(json.dumps([text, vars(voice)]) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError as error:  # it has ended
                raise DataError("espeak-ng could not say a sentence", found=told) from error
            if not line.strip():
                raise DataError("espeak-ng could not say a sentence", found=told)
            yield np.frombuffer(base64.b64decode(line), "<i2")
    finally:
        with contextlib.suppress(OSError):  # of what could not be written any more
            process.stdin.close()
        process.stdout.close()
        process.wait()


def serve() -> None:
    """The child's side: a line of JSON in, a line of samples out, until there are no more."""
    say = _open()
    for line in sys.stdin:
        text, voice = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                samples = say(text, Speaker(**voice))
                sys.stdout.write(base64.b64encode(samples).decode() + "\n")
                sys.stdout.flush()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status:
            sys.stdout.write("\n")
            sys.stdout.flush()


def _open() -> Callable[[str, Speaker], bytes]:
    loader = _loader()
    library = ctypes.CDLL(str(loader.get_library_path()))
    data = str(loader.get_data_path()).encode()
    if library.espeak_Initialize(SYNCHRONOUS, 0, data, NO_EXIT) != RATE:
        raise DataError("espeak-ng cannot be opened", expected=f"{RATE} Hz")
    pieces: list[bytes] = []

    def take(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = CALLBACK(take)
    library.espeak_SetSynthCallback(callback)

    def say(text: str, voice: Speaker) -> bytes:
        name, data = f"{voice.accent}+{voice.variant}".encode(), text.encode()
        if library.espeak_SetVoiceByName(name):
            return b""
        library.espeak_ng_SetRandSeed(1)
        library.espeak_SetParameter(SPEED, voice.speed, 0)
        library.espeak_SetParameter(PITCH, voice.pitch, 0)
        library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        return b"".join(pieces)

    say.callback = callback  # type: ignore[attr-defined]  # kept while the library may call it
    return say


def _loader() -> Any:
    if find_spec(PACKAGE) is None:
        raise MissingExtra.of("espeakng-loader", "espeak", "spoken sentences")
    import espeakng_loader

    return espeakng_loader
