"""Sound <-> tokens: log-mel frames by learned codebooks, several ids for each frame.

A frame is some hops of 10 ms side by side. The first codebook has the centre that is nearest to a
frame, each further one the centre nearest to what is still missing. Loudness is not kept: every
sound is brought to one level first. What is lost beside it `loss` says.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.audio_files import FULL_SCALE, MAX_SECONDS, Sound, Sounds, read_sound, sound_bytes
from whorl.codecs.audio_mel import Mel
from whorl.core.errors import DataError, MissingExtra, RecordError, SpecError

__all__ = ["AudioCodec", "AudioShape", "fit_audio_codec", "load"]

Floats = NDArray[np.float64]
FILE = "codebooks.safetensors"
LEVEL = 0.1  # root mean square of the loud parts, once a sound is brought to its level
LOUD_QUANTILE = 0.9  # of the hops by their power: the loud parts lie above
MAX_GAIN = 100.0
NATS_TO_DB = 10 / np.log(10)
MAX_FIT_FRAMES = 40_000  # that k-means reads
CENTRE_STEPS = 128.0  # centres are rounded to 1/128 of a nat: same bytes on any machine


@dataclass(frozen=True)
class AudioShape:
    """How sounds are cut and written. frame_ms: a multiple of 10."""

    rate: int = 16_000
    frame_ms: int = 40
    num_bands: int = 40
    max_seconds: float = MAX_SECONDS

    def __post_init__(self) -> None:
        if self.frame_ms < 10 or self.frame_ms % 10:
            raise SpecError("a frame is made of hops of 10 ms", found=f"{self.frame_ms} ms")
        if not 8 <= self.num_bands <= 128 or not 4_000 <= self.rate <= 48_000:
            raise SpecError(
                "no codec of sound has this shape",
                found=f"{self.rate} Hz, {self.num_bands} bands",
                expected="4,000 to 48,000 Hz, 8 to 128 bands",
            )

    @property
    def mel(self) -> Mel:
        return Mel(self.rate, self.num_bands)

    @property
    def hops(self) -> int:
        """Of a frame."""
        return self.frame_ms // 10

    @property
    def frame_samples(self) -> int:
        return self.hops * self.mel.hop


class AudioCodec:
    """Sounds of one rate and any length. Local id = codebook's number * its centres + centre."""

    kind = "audio-frames"
    media_type = "audio/wav"
    value_ids = None

    def __init__(self, books: NDArray[np.float32], shape: AudioShape, name: str = "audio") -> None:
        """books: [codebooks, centres, values of a frame]. Raises SpecError on another shape."""
        expected = shape.hops * shape.num_bands
        if books.ndim != 3 or books.shape[-1] != expected or not np.isfinite(books).all():
            raise SpecError(
                "codebooks do not fit their frames", found=books.shape, expected=expected
            )
        self.name, self.shape = name, shape
        self.books = np.ascontiguousarray(books, "<f4")
        self.num_books, self.num_centres = (int(size) for size in books.shape[:2])
        self.num_ids = self.num_books * self.num_centres
        self._mel = shape.mel
        self.told = ""  # what the codebooks lose of what they were fitted on, in words

    @property
    def rate(self) -> int:
        return self.shape.rate

    @property
    def ids_per_s(self) -> float:
        return 1000 / self.shape.frame_ms * self.num_books

    def num_ids_of(self, num_samples: int) -> int:
        """A frame that is only begun counts as one: what is missing of it is silence."""
        return -(-num_samples // self.shape.frame_samples) * self.num_books

    def encode(self, value: Any) -> list[int]:
        """`num_ids_of` ids. Raises DataError on what is no int16 [samples] of allowed length."""
        left = self.frames(value)
        codes = np.empty((len(left), self.num_books), np.int64)
        for number, book in enumerate(self.books.astype(np.float64)):
            codes[:, number] = _nearest(left, book)
            left = left - book[codes[:, number]]
        codes += np.arange(self.num_books) * self.num_centres
        return [int(code) for code in codes.ravel()]

    def decode(self, ids: Sequence[int]) -> Sound:
        """int16 [samples], whole frames. Any ids make a sound: an id of the first codebook begins a
        frame, others add to it."""
        frames: list[Floats] = []
        for number in ids:
            book, centre = divmod(int(number), self.num_centres)
            if book == 0 or not frames:
                frames.append(np.zeros(self.books.shape[-1]))
            frames[-1] += self.books[book, centre]
        if not frames:
            return np.zeros(0, np.int16)
        hops = np.concatenate(frames).reshape(-1, self.shape.num_bands)
        samples = self._mel.invert(hops)
        return np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype(np.int16)

    def frames(self, value: Any) -> Floats:
        """[frames, values of a frame] of a sound, at its level. Raises DataError as `encode`."""
        sound = np.asarray(value)
        most = int(self.shape.max_seconds * self.shape.rate)
        if sound.dtype != np.int16 or sound.ndim != 1 or not 0 < len(sound) <= most:
            raise DataError(
                "the audio codec cannot encode this sound",
                found=f"{sound.dtype} of shape {sound.shape}",
                expected=f"int16 [samples], 1 to {most:,} at {self.shape.rate:,} Hz",
            )
        frame = self.shape.frame_samples
        padded = np.pad(sound.astype(np.float64), (0, -len(sound) % frame)) / FULL_SCALE
        mel = self._mel.analyse(self._at_level(padded))
        return mel.reshape(-1, self.shape.hops * self.shape.num_bands)

    def shown(self, ids: Sequence[int]) -> str:
        """What these ids are, in words."""
        return f"[a sound of {len(ids) / self.ids_per_s:.1f} s]"

    def loss(self, sounds: Iterable[Sound]) -> float:
        """What the codebooks lose: root of the mean squared difference of all bands, in decibels.

        Loudness and the phases, which decoding finds anew, are not counted.
        """
        errors, count = 0.0, 0
        for sound in sounds:
            left = self.frames(sound)
            for book in self.books.astype(np.float64):
                left = left - book[_nearest(left, book)]
            errors, count = errors + float((left**2).sum()), count + left.size
        return float(np.sqrt(errors / max(1, count)) * NATS_TO_DB)

    def to_bytes(self, value: Any) -> bytes:
        """A WAV of 16 bits. Raises DataError on what is no sound."""
        sound = np.asarray(value)
        if sound.dtype != np.int16 or sound.ndim != 1:
            raise DataError("this is no sound", found=f"{sound.dtype} of shape {sound.shape}")
        return sound_bytes(sound, self.shape.rate)

    def from_bytes(self, data: bytes) -> Sound:
        """The sound of a WAV, FLAC, Ogg or MP3. Raises DataError as `read_sound`."""
        return read_sound(data, Sounds(self.shape.rate, self.shape.max_seconds))

    def files(self) -> dict[str, bytes]:
        """Codebooks and shape as safetensors."""
        from safetensors.numpy import save

        shape = self.shape
        numbers = np.array([shape.rate, shape.frame_ms, shape.num_bands], "<i8")
        seconds = np.array([shape.max_seconds], "<f8")
        return {FILE: save({"books": self.books, "shape": numbers, "max_seconds": seconds})}

    def _at_level(self, samples: Floats) -> Floats:
        """The sound with its loud parts at LEVEL; silence stays silence."""
        power = (samples.reshape(-1, self._mel.hop) ** 2).mean(axis=1)
        loud = float(np.sqrt(np.quantile(power, LOUD_QUANTILE)))
        return samples * min(MAX_GAIN, LEVEL / loud) if loud else samples


def load(name: str, files: Mapping[str, bytes]) -> AudioCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        tensors = load_tensors(files[FILE])
        rate, frame_ms, num_bands = (int(number) for number in tensors["shape"])
        shape = AudioShape(rate, frame_ms, num_bands, float(tensors["max_seconds"][0]))
        return AudioCodec(tensors["books"], shape, name)
    except (KeyError, TypeError, ValueError, IndexError, SafetensorError) as error:
        raise RecordError(f"codec {name} is not an audio codec", found=error) from error


def fit_audio_codec(
    sounds: Iterable[Sound],
    shape: AudioShape,
    num_books: int,
    num_centres: int,
    seed: int = 0,
    name: str = "audio",
) -> AudioCodec:
    """Codebooks learned one after another, each of what those before it leave.

    Of few frames there are as many centres as frames.

    Frames are taken evenly, at most MAX_FIT_FRAMES of them; one thread, rounded centres: the same
    sounds give the same bytes. Raises DataError without two frames of sound.
    """
    if num_books < 1 or num_centres < 2:
        raise SpecError("a codebook needs centres", found=f"{num_books} of {num_centres}")
    size = shape.hops * shape.num_bands
    blank = AudioCodec(np.zeros((num_books, num_centres, size), np.float32), shape, name)
    frames = np.concatenate([np.empty((0, size), np.float32), *_sampled(blank, sounds)])
    num_centres = min(num_centres, len(frames))
    if num_centres < 2:
        raise DataError(
            "too little sound to learn a codebook from",
            found=f"{len(frames):,} frames of {shape.frame_ms} ms",
            expected="at least 2",
        )
    left, books = frames.astype(np.float64), []
    for number in range(num_books):
        centres = _k_means(left, num_centres, seed + number)
        centres = np.round(centres * CENTRE_STEPS) / CENTRE_STEPS
        centres = centres[np.lexsort((*centres.T[::-1], centres.sum(axis=1)))]
        books.append(centres)
        left = left - centres[_nearest(left, centres)]
    codec = AudioCodec(np.stack(books).astype(np.float32), shape, name)
    found = float(np.sqrt(np.mean(left**2)) * NATS_TO_DB)
    silent = float(np.sqrt(np.mean((frames - frames.mean(axis=0)) ** 2)) * NATS_TO_DB)
    codec.told = f"loses {found:.1f} dB of each band; one frame for all, {silent:.1f}"
    return codec


def _sampled(codec: AudioCodec, sounds: Iterable[Sound]) -> Iterable[NDArray[np.float32]]:
    """Frames of the sounds; every second one is left out each time there are too many."""
    kept: list[NDArray[np.float32]] = []
    count, stride = 0, 1
    for number, sound in enumerate(sounds):
        if number % stride:
            continue
        kept.append(codec.frames(sound).astype(np.float32))
        count += len(kept[-1])
        while count > MAX_FIT_FRAMES and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            count = sum(map(len, kept))
    return kept


def _nearest(values: Floats, centres: Floats) -> NDArray[np.int64]:
    """The nearest centre of each row; the first of equally near ones.

    Not by a BLAS: of so few rows its threads would cost thirty times what they compute, in every
    process that encodes, and what it adds up depends on the machine.
    """
    products = np.einsum("rv,cv->rc", values, centres)
    distances = (centres**2).sum(axis=1)[None, :] - 2 * products
    return np.asarray(distances.argmin(axis=1), np.int64)


def _k_means(values: Floats, num_centres: int, seed: int) -> Floats:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "learning codebooks of sound") from error
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")  # fewer distinct frames than centres: harmless here
        fitted = KMeans(num_centres, n_init=1, max_iter=40, random_state=seed).fit(values)
    return np.asarray(fitted.cluster_centers_, np.float64)
