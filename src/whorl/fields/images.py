"""Images of classes: what is to be seen on a picture?

A folder for each class, tables of path and label, or files of the MNIST kind. An image is scaled to
one size and read as the ids of a learned codebook of its patches (`whorl.codecs.image`), the answer
is one of the classes. It is also learned from in copies that are moved, and mirrored where that
changes nothing. Each copy of all images comes after the one before, in an order of its own: what
is packed into one row of training is not alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image import fit_image_codec
from whorl.codecs.image_files import GREY, MAX_IMAGE_BYTES, RGB, read_image
from whorl.codecs.label import LabelCodec
from whorl.core import streams
from whorl.core.errors import DataError, SpecError
from whorl.core.intervals import score_of
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Split, Task
from whorl.core.reasons import Place, Reason
from whorl.core.sources import PASSED_OVER, FileItem
from whorl.core.tasks import ChoiceTask
from whorl.fields.image_classifiers import answers_of
from whorl.fields.image_copies import moved
from whorl.fields.image_idx import read_idx
from whorl.fields.image_options import Books, SomeImages, one_of, size_option
from whorl.fields.image_sources import (
    IMAGES,
    LABELS,
    TABLE,
    ImageLayout,
    known_layout,
    layout_of,
    tell_refused_rows,
)
from whorl.fields.places import Places, Reject
from whorl.fields.whole import copies_of, number_of, share_of, share_option

__all__ = ["FIELD", "ImagesField"]

IMAGE, LABEL, MARK_CODEC = "image", "label", "special"
# What stands behind an image as it was read, and behind a copy: both are as long, so that where
# rows are of whole documents none is cut. The first is learned: there an answer stops.
MARK, END, COPY_END = "<|answer|>", "<|end|>", "<|answer|>"
ROUND = "~"  # in the kind of an item and the name of a document, before the number of the copy
UNUSED = "image of a split that is neither learned nor asked"
TOLD = "what the source was taken for"  # of an item that says this and is no file
SIDE = 32  # of images in files, where a recipe says no size
WANTED_IMAGES, MOST_COPIES = 100_000, 8  # where a recipe says no number of copies
SHIFT_SHARE = 14  # of the shorter side: how far a copy is moved, where a recipe does not say
PART_BYTES = 2**22  # of images in one item of a file of many
MAX_CLASSES = 1_000
TASK = ChoiceTask()

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ImagesField:
    """One document per image and copy; only the class is learned."""

    name: str = "images"
    task: Task = TASK
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"size": "auto", "colour": "auto", "patch": "4", "ids": "1"},
            **{"books": "auto", "book": "auto"},
            **{"copies": "auto", "shift": "auto", "flips": "no", "heldout": "0.2", "seed": "0"},
            **{"classes": "", "valid": "0", "asked": "auto"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or says no class of any image."""
        layout, how = layout_of(source), _How.of({**self.options, **source.options})
        how.check(layout)
        images = [item for item in layout.items if item.name in layout.wanted]
        if not images:
            raise DataError(
                f"source {source.source} has no images with classes",
                expected="a folder for each class, a table of path and label, or idx files",
            )
        if not layout.labels and len({each.label for each in layout.wanted.values()}) < 2:
            raise DataError(
                f"source {source.source} has no classes to choose from",
                found=layout.told,
                expected="2 classes or more",
                do="give each class a folder of its own, or a label of its own in the table",
            )
        count = sum(_count(item, layout) for item in images)
        copies = copies_of(how.options, count, WANTED_IMAGES, MOST_COPIES)
        found = [item for item in layout.items if item.name not in layout.wanted]
        found.append(replace(images[0], kind=PASSED_OVER, reason=TOLD, hint=layout.told))
        for number in range(copies):
            parts = [part for item in images for part in _parts_of(item, layout)]
            parts.sort(key=lambda item: share_of(how.seed, number, item.name, item.start))
            found += [replace(item, kind=f"{item.kind}{ROUND}{number}") for item in parts]
        return found

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if the source has no classes, SpecError on wrong options."""
        places, how = Places.of(item, reject), _How.of({**self.options, **source.options})
        layout = known_layout(source)
        if item.kind in (LABELS, TABLE) or not item.is_read:
            if item.kind == TABLE:
                tell_refused_rows(item, layout, reject)
            elif item.reason == TOLD:
                Places(replace(item, name=source.source), reject).tell(item.hint)
            elif not item.is_read:
                places.refuse_item()
            return
        kind, _, number = item.kind.partition(ROUND)
        copy = int(number)
        told: Reject = reject if copy == 0 else lambda reason: None  # once
        read = _of_arrays if kind == IMAGES else _of_file
        for name, image, label in read(item, layout, how, Places.of(item, told)):
            split = how.split_of(layout, item.name, name, image)
            if split is None:
                told(Reason(UNUSED, "passed over", Place(name)))
            if split is None or (copy and split == "heldout"):
                continue
            if copy:
                rng = np.random.default_rng([how.seed, copy, _number(name)])
                image = moved(image, rng, how.shift_of(image), how.flips)
                name = f"{name}{ROUND}{copy}"
            yield Document(name, _parts(image, label, is_copy=copy > 0), split)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """The classes, and codebooks of the images as they were read. Raises DataError."""
        how = _How.of({**self.options, **options.get("options", {})})
        images, labels = SomeImages(), set()
        for document in documents:
            labels.add(document.parts[2].value)
            if document.parts[-1].value == END:
                images.add(document.parts[0].value)
        if len(labels) > MAX_CLASSES:
            raise DataError(
                "too many classes", found=len(labels), expected=f"at most {MAX_CLASSES}"
            )
        label = LabelCodec.fit(labels)
        by_place = how.books.by_place(images.count)
        height, width = images.kept[0].shape[:2] if images.kept else (0, 0)
        num_places = height * width // how.patch**2 if by_place else 1
        num_ids = how.books.num_ids(by_place) * how.ids * num_places
        if not options.get("is_open"):
            num_ids = min(num_ids, int(options["vocab_size"]) - label.num_ids)
        image = fit_image_codec(
            *(images.kept, num_ids, how.patch, int(options["seed"])),
            ids_per_patch=how.ids,
            white=255.0,
            by_place=by_place,
        )
        return {IMAGE: image, LABEL: label}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """A linear model and near neighbours on the same pixels, as the codec keeps them."""
        right = np.array([document.parts[2].value for document in heldout])
        pixels = np.stack([document.parts[0].value for document in heldout])
        names, ones = tuple(document.name for document in heldout), np.ones(len(heldout))
        return [
            score_of(method, QualityMeasure(self.task.metric, names, hits.astype(np.float64), ones))
            for method, answers in answers_of(_originals(train), pixels)
            for hits in [answers == right]
        ]


def _originals(train: Sequence[Document]) -> Iterator[tuple[NDArray[np.float32], str]]:
    """Images that are no copies, with their classes; pieces of documents are left out."""
    for document in train:
        codecs = [part.codec for part in document.parts]
        if codecs == [IMAGE, MARK_CODEC, LABEL, MARK_CODEC] and document.parts[3].value == END:
            yield document.parts[0].value, document.parts[2].value


def _parts(image: Image, label: str, is_copy: bool) -> tuple[Part, ...]:
    return (
        Part(IMAGE, image, trained=False),
        Part(MARK_CODEC, MARK, trained=False),
        Part(LABEL, label),
        Part(MARK_CODEC, COPY_END if is_copy else END, trained=not is_copy),
    )


def _number(name: str) -> int:
    return int(share_of(name) * 2.0**53)


# ------------------------------------------------------------------ how images are read


@dataclass(frozen=True)
class _How:
    """A source's options, checked. size: None: that of the images, or SIDE of those in files."""

    options: Mapping[str, str]
    size: tuple[int, int] | None  # (width, height)
    channels: int | None
    patch: int
    ids: int
    books: Books
    shift: int | None
    flips: bool
    heldout: float
    seed: int
    classes: tuple[str, ...]
    valid: int
    asked: str

    @classmethod
    def of(cls, options: Mapping[str, str]) -> _How:
        """Raises SpecError on one that is wrong."""
        colours = {"auto": None, "grey": GREY, "colour": RGB}
        patch = number_of(options, "patch", 1)
        shift = options["shift"].strip()
        return cls(
            options=options,
            size=size_option(options, patch),
            channels=colours[one_of(options, "colour", tuple(colours))],
            patch=patch,
            ids=number_of(options, "ids", 1),
            books=Books.of(options),
            shift=None if shift == "auto" else number_of(options, "shift"),
            flips=one_of(options, "flips", ("no", "yes")) == "yes",
            heldout=share_option(options, "heldout"),
            seed=number_of(options, "seed"),
            classes=tuple(word.strip() for word in options["classes"].split(",") if word.strip()),
            valid=number_of(options, "valid"),
            asked=one_of(options, "asked", ("auto", "test", "valid")),
        )

    def check(self, layout: ImageLayout) -> None:
        """Raises SpecError on an option that says nothing of such a source."""
        for key, is_given in (("classes", bool(self.classes)), ("valid", self.valid > 0)):
            if is_given and layout.kind != "idx":
                raise SpecError(
                    f"data.options.{key} is for idx files alone",
                    found=f"a source of {layout.kind}",
                    do="take it out: folders and tables say classes and splits themselves",
                )

    def shift_of(self, image: Image) -> int:
        return min(image.shape[:2]) // SHIFT_SHARE if self.shift is None else self.shift

    def split_of(self, layout: ImageLayout, file: str, name: str, image: Image) -> Split | None:
        """None: it is neither learned nor asked. Equal images are on one side, whatever their
        classes."""
        said = layout.wanted[file].split
        if layout.kind == "idx" and said == "train" and self.valid:
            last = len(read_idx(layout.labels[file], 1)) - self.valid
            said = "valid" if int(name.rpartition("@")[2]) >= last else said
        asked = self.asked if self.asked != "auto" else layout.asked
        if not asked and layout.kind == "idx" and self.valid:
            asked = "valid"
        if not asked:
            share = share_of(self.seed, image.tobytes().hex())
            return "heldout" if share < self.heldout else "train"
        if said == asked:
            return "heldout"
        return "train" if said in ("train", "") else None


Read = Iterator[tuple[str, Image, str]]  # name, image, class


def _count(item: FileItem, layout: ImageLayout) -> int:
    if item.kind != IMAGES:
        return 1
    try:
        return len(read_idx(layout.labels[item.name], 1))
    except streams.SourceFault:
        return 0  # it is told when the images are read


def _parts_of(item: FileItem, layout: ImageLayout) -> Iterator[FileItem]:
    """Ranges of a file of many images, by the bytes of the images; another is one part."""
    count = _count(item, layout)
    if item.kind != IMAGES or not count:
        yield item
        return
    try:
        each = read_idx(item, 3)[:1].nbytes or 1
    except streams.SourceFault:
        yield item
        return
    step = max(1, PART_BYTES // each)
    for first in range(0, count, step):
        last = min(count, first + step)
        yield replace(item, start=first * each, end=last * each)


def _of_file(item: FileItem, layout: ImageLayout, how: _How, places: Places) -> Read:
    width, height = how.size or (SIDE, SIDE)
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, None) as opened:
            data = opened.content.read(MAX_IMAGE_BYTES + 1)
        image = read_image(data, width, height, how.channels or RGB)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
    except DataError as error:
        places.refuse(error.what, str(error.found)[:120])
    else:
        yield item.name, image, layout.wanted[item.name].label


def _of_arrays(item: FileItem, layout: ImageLayout, how: _How, places: Places) -> Read:
    """Grey images as they are, of the option's size where it is theirs too."""
    plain = replace(item, kind=IMAGES, start=0, end=None)
    try:
        images, labels = read_idx(plain, 3), read_idx(layout.labels[item.name], 1)
        if len(images) != len(labels) or not images.size:
            told = f"{len(images):,} images, {len(labels):,} labels"
            raise streams.SourceFault("idx files of different lengths, or empty", told)
        if how.size not in (None, images.shape[:0:-1]) or how.channels == RGB:
            told = "they are grey, {1} x {0} pixels".format(*images.shape[1:])
            raise streams.SourceFault("images of an idx file are read as they are", told)
        if images.shape[1] % how.patch or images.shape[2] % how.patch:
            raise streams.SourceFault("patches do not tile the images of an idx file")
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
        return
    each = images[0].nbytes
    last = len(images) if item.end is None else item.end // each
    for number in range(item.start // each, last):
        label = int(labels[number])
        if how.classes and label >= len(how.classes):
            places.refuse("label beyond options.classes", f"{label} of {len(how.classes)}")
            continue
        yield (
            f"{item.name}@{number}",
            images[number],
            (how.classes[label] if how.classes else str(label)),
        )


FIELD = ImagesField()
