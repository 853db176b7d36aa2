"""Sound files: read within limits that are checked before anything is decoded, and written.

A sound is int16 [samples] of one channel at a rate that its codec says.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, MissingExtra

__all__ = ["FORMATS", "MAX_SECONDS", "SUFFIXES", "Sound", "Sounds", "read_sound", "sound_bytes"]

Sound = NDArray[np.int16]
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3")
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "MPEG")  # as libsndfile calls them
MAX_SECONDS = 60.0
MAX_CHANNELS = 8
LOWEST_HZ, HIGHEST_HZ = 4_000, 192_000
FULL_SCALE = 32_767
BLOCK_FRAMES = 2**16
UNKNOWN_FRAMES = 2**60  # what libsndfile says where a file does not tell its length
MAX_BYTES_PER_S = 192_000 * 8 * 8  # of the largest that is taken: 8 channels of 8 bytes
HEADER_BYTES = 2**20  # beside the samples: names, pictures
SIZE_UNKNOWN = (0, 0xFFFF_FFFF)  # of a WAV that was written to a pipe


@dataclass(frozen=True)
class Sounds:
    """What is taken: the rate that every sound is brought to, and the longest one."""

    rate: int
    max_seconds: float = MAX_SECONDS

    @property
    def max_bytes(self) -> int:
        return int(self.max_seconds * MAX_BYTES_PER_S) + HEADER_BYTES


def read_sound(file: bytes | Path, wanted: Sounds) -> Sound:
    """The sound of a file; channels are averaged, other rates resampled.

    Raises DataError on what is no sound of FORMATS, on NaN, on a file that is cut short or has no
    samples (also of the wanted rate), and on one that is too long, which is not decoded then.
    """
    num_bytes = len(file) if isinstance(file, bytes) else file.stat().st_size
    if num_bytes > wanted.max_bytes:
        raise _refused("the sound file is too large", f"{num_bytes:,} bytes", wanted)
    data = file if isinstance(file, bytes) else file.read_bytes()
    _check_whole(data)
    library = _soundfile()
    try:
        with library.SoundFile(io.BytesIO(data)) as opened:
            _check_header(opened, wanted)
            samples = _samples(opened, wanted)
            rate = int(opened.samplerate)
    except library.SoundFileError as error:
        raise _refused("this is no sound that can be read", error, wanted) from error
    if not np.isfinite(samples).all():
        raise _refused("the sound has samples that are no numbers", "NaN or infinity", wanted)
    found = _levels(_resampled(samples, rate, wanted.rate))
    if not len(found):
        told = f"{len(samples)} at {rate:,} Hz are none at {wanted.rate:,} Hz"
        raise _refused("the sound has no samples", told, wanted)
    return found


def sound_bytes(sound: Sound, rate: int, kind: str = "WAV") -> bytes:
    """A file of one channel; a WAV has 16 bits. kind: one of FORMATS."""
    file = io.BytesIO()
    _soundfile().write(file, sound, rate, format=kind)
    return file.getvalue()


def _check_header(opened: Any, wanted: Sounds) -> None:
    """Raises DataError by what the file says of itself."""
    if opened.format not in FORMATS:
        raise _refused("the sound file has another format", opened.format, wanted)
    if not 1 <= opened.channels <= MAX_CHANNELS:
        raise _refused("the sound has too many channels", opened.channels, wanted)
    if not LOWEST_HZ <= opened.samplerate <= HIGHEST_HZ:
        raise _refused("the sound has an odd rate", f"{opened.samplerate} Hz", wanted)
    if opened.frames == 0:
        raise _refused("the sound has no samples", "0 samples", wanted)
    seconds = opened.frames / opened.samplerate
    if opened.frames < UNKNOWN_FRAMES and seconds > wanted.max_seconds:
        raise _refused("the sound is too long", f"{seconds:,.1f} s", wanted)


def _samples(opened: Any, wanted: Sounds) -> NDArray[np.float32]:
    """[samples], the mean of the channels. Raises DataError where the file ends too early or late.

    By blocks: what a file says of its length is no reason to reserve memory.
    """
    most = int(wanted.max_seconds * opened.samplerate)
    blocks, count = [], 0
    while len(block := opened.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1))
        count += len(block)
        if count > most:
            raise _refused("the sound is too long", f"over {wanted.max_seconds:g} s", wanted)
    if not count:
        raise _refused("the sound has no samples", "0 samples", wanted)
    # An MP3 is asked how long it is by a guess from its first frames, others know.
    is_told = opened.frames < UNKNOWN_FRAMES and opened.format not in ("MP3", "MPEG")
    if is_told and count < opened.frames:
        raise _refused("the sound file is cut short", f"{count:,} of {opened.frames:,}", wanted)
    return np.concatenate(blocks)


def _check_whole(data: bytes) -> None:
    """Raises DataError on a WAV or Ogg that ends before it says; libsndfile reads such in silence.

    A WAV of unknown size, from a pipe, ends where it ends.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        at = 12
        while at + 8 <= len(data):
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            if data[at : at + 4] == b"data" and size in SIZE_UNKNOWN:
                return
            at += 8 + size + size % 2
            if at - size % 2 > len(data):
                _say_short(f"{len(data):,} bytes", f"{at:,}")
    elif data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        table = data[last + 27 : last + 27 + int.from_bytes(data[last + 26 : last + 27], "little")]
        is_end = last + 27 + len(table) + sum(table) <= len(data) and data[last + 5] & 4
        if not is_end:
            _say_short("no last page", "a page that ends the stream")


def _say_short(found: str, expected: str) -> None:
    raise DataError("the sound file is cut short", found=found, expected=expected)


def _resampled(samples: NDArray[np.float32], rate: int, wanted_rate: int) -> NDArray[np.float32]:
    if rate == wanted_rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise MissingExtra.of("soxr", "audio", f"sounds of {rate} Hz") from error
    return np.asarray(soxr.resample(samples, rate, wanted_rate, "HQ"), np.float32)


def _levels(samples: NDArray[np.float32]) -> Sound:
    """Samples between -1 and 1 as 16 bits; louder ones are clipped."""
    return np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype(np.int16)


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtra.of("soundfile", "audio", "sound files") from error
    return soundfile


def _refused(what: str, found: object, wanted: Sounds) -> DataError:
    expected = (
        f"WAV, FLAC, Ogg or MP3 of at most {wanted.max_seconds:g} s and {MAX_CHANNELS} channels, "
        f"{LOWEST_HZ:,} to {HIGHEST_HZ:,} Hz"
    )
    return DataError(what, found=found, expected=expected)
