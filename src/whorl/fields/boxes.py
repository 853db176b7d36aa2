"""Things on images: what is where?

Sources are images with boxes as COCO's json lists them (`whorl.fields.box_files`), or files of the
MNIST kind, of whose images scenes are made (`whorl.fields.scenes`; synthetic). An image is
stretched to one size and read as the ids of a learned codebook of its patches; the answer is its
boxes from the left to the right (`whorl.codecs.boxes`), written by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.boxes import IDS_PER_BOX, Box, BoxesCodec, box_lines, boxes_in
from whorl.codecs.image import fit_image_codec
from whorl.codecs.image_files import GREY, MAX_IMAGE_BYTES, RGB, read_image, size_of_image
from whorl.core import streams
from whorl.core.errors import DataError, SpecError
from whorl.core.intervals import score_of
from whorl.core.metrics import MEAN_IOU, RECALL_AT_50
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Split, Task
from whorl.core.reasons import Place, Reason
from whorl.core.sources import PASSED_OVER, DatasetItem, FileItem
from whorl.core.tasks import WritingTask
from whorl.fields.box_files import (
    LIST,
    LOST,
    MOST_BOXES,
    BoxLayout,
    ListedImage,
    box_layout,
    known_boxes,
)
from whorl.fields.box_finders import found_boxes
from whorl.fields.box_scores import graded, grades_of
from whorl.fields.files import EXCLUDED, file_items
from whorl.fields.image_idx import labels_beside, read_idx
from whorl.fields.image_options import Books, SomeImages, one_of, size_option
from whorl.fields.image_sources import SUFFIXES, known_layout, layout_of
from whorl.fields.places import Places
from whorl.fields.scenes import LOGIC_VERSION, Things, scene
from whorl.fields.whole import number_of, share_of, share_option

__all__ = ["BOXES", "FIELD", "BoxesField"]

IMAGE, BOXES, MARK_CODEC = "image", "boxes", "special"
MARK, END = "<|answer|>", "<|end|>"  # before the boxes, and where an answer stops
SIDE = 48  # of images, where a recipe says no size
TOLD = "what the source was taken for"  # of an item that says this and is no file
UNUSED = "image of a split that is neither learned nor asked"
MOST_BEYOND = 1.0  # pixels that a box may reach out of its image by rounding
BATCH = 250  # scenes of one item
SPLITS: tuple[tuple[Split, str], ...] = (("heldout", "heldout_scenes"), ("train", "scenes"))
TASK = WritingTask(
    grade=graded, metric=MEAN_IOU, further=(RECALL_AT_50,), max_tokens=IDS_PER_BOX * MOST_BOXES + 1
)

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class BoxesField:
    """<image> <|answer|> <boxes> <|end|>: the boxes are learned, and where they end."""

    name: str = "boxes"
    task: Task = TASK
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"size": "auto", "colour": "auto", "patch": "4", "ids": "1"},
            **{"books": "auto", "book": "auto"},
            **{"heldout": "0.2", "seed": "0"},
            **{"scenes": "20000", "heldout_scenes": "500", "things": "3", "classes": ""},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or has no boxes, SpecError on an option."""
        how = _How.of({**self.options, **source.options})
        if _is_idx(source):
            return _scene_items(source, how)
        layout = box_layout(source)
        images = [item for item in layout.items if item.name in layout.wanted]
        told = replace(images[0], kind=PASSED_OVER, reason=TOLD, hint=layout.summary)
        return [*layout.items, told]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError if the source has no boxes, SpecError on wrong options."""
        how = _How.of({**self.options, **source.options})
        if isinstance(item, DatasetItem):
            yield from _scenes(source, how, item.number)
            return
        places = Places.of(item, reject)
        if item.reason == TOLD:
            Places(replace(item, name=source.source), reject).tell(item.hint)
        elif not item.is_read:
            places.refuse_item()
        elif item.kind == LIST:
            for reason in known_boxes(source).told[item.name]:
                reject(reason)
        elif item.kind == "file":
            layout = known_boxes(source)
            found = _of_file(item, layout.wanted[item.name], how, places)
            if found is not None:
                image, boxes = found
                split = how.split_of(layout, item.name, image)
                if split is None:
                    reject(Reason(UNUSED, "passed over", Place(item.name)))
                else:
                    yield _document(item.name, image, boxes, split)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """A codebook of the images, and the labels. Raises DataError without any."""
        how = _How.of({**self.options, **options.get("options", {})})
        images, lines = SomeImages(), set()
        for document in documents:
            images.add(document.parts[0].value)
            lines.add(document.parts[2].value)
        boxes = BoxesCodec.fit(lines, max(how.size))
        by_place = how.books.by_place(images.count)
        num_places = how.size[0] * how.size[1] // how.patch**2 if by_place else 1
        num_ids = how.books.num_ids(by_place) * how.ids * num_places
        if not options.get("is_open"):
            num_ids = min(num_ids, int(options["vocab_size"]) - boxes.num_ids)
        image = fit_image_codec(
            *(images.kept, num_ids, how.patch, int(options["seed"])),
            ids_per_patch=how.ids,
            white=255.0,
            by_place=by_place,
            stretched=True,
        )
        return {IMAGE: image, BOXES: boxes}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Windows of gradients and a linear classifier, on the images as the codec keeps them."""
        asked = [_taken_apart(document) for document in heldout]
        name, answers = found_boxes(
            (_taken_apart(document) for document in train if document.parts),  # else it is padding
            [image for image, _ in asked],
        )
        grades = [grades_of(a, boxes) for a, (_, boxes) in zip(answers, asked, strict=True)]
        names = tuple(document.name for document in heldout)
        return [
            score_of(name, QualityMeasure(metric, names, *np.array([g[metric] for g in grades]).T))
            for metric in (MEAN_IOU, RECALL_AT_50)
        ]


def _document(name: str, image: Image, boxes: Iterable[Box], split: Split) -> Document:
    parts = (
        Part(IMAGE, image, trained=False),
        Part(MARK_CODEC, MARK, trained=False),
        Part(BOXES, box_lines(boxes)),
        Part(MARK_CODEC, END),
    )
    return Document(name, parts, split, whole=True)


def _taken_apart(document: Document) -> tuple[NDArray[np.float32], list[Box]]:
    """(image, its boxes) of a document made of ids; such documents are never cut."""
    values = {part.codec: part.value for part in document.parts}
    return values[IMAGE], boxes_in(values.get(BOXES, ""))


@dataclass(frozen=True)
class _How:
    """A source's options, checked."""

    size: tuple[int, int]  # (width, height)
    channels: int | None
    patch: int
    ids: int
    books: Books
    heldout: float
    seed: int
    things: int
    scenes: Mapping[Split, int]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, options: Mapping[str, str]) -> _How:
        """Raises SpecError on one that is wrong."""
        colours = {"auto": None, "grey": GREY, "colour": RGB}
        patch = number_of(options, "patch", 1)
        return cls(
            size=size_option(options, patch) or (SIDE, SIDE),
            channels=colours[one_of(options, "colour", tuple(colours))],
            patch=patch,
            ids=number_of(options, "ids", 1),
            books=Books.of(options),
            heldout=share_option(options, "heldout"),
            seed=number_of(options, "seed"),
            things=number_of(options, "things", 1),
            scenes={split: number_of(options, key, 1) for split, key in SPLITS},
            classes=tuple(word.strip() for word in options["classes"].split(",") if word.strip()),
        )

    def split_of(self, layout: BoxLayout, name: str, image: Image) -> Split | None:
        """As lists say where they say train and another, else equal images are on one side.

        None: it is neither learned nor asked.
        """
        said = layout.wanted[name].split
        if layout.asked and said == layout.asked:
            return "heldout"
        if layout.asked:
            return "train" if said in ("train", "") else None
        share = share_of(self.seed, image.tobytes().hex())
        return "heldout" if share < self.heldout else "train"


# ------------------------------------------------------------------ images in files


def _of_file(
    item: FileItem, known: ListedImage, how: _How, places: Places
) -> tuple[Image, list[Box]] | None:
    """The image and its boxes; None: it is refused."""
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, None) as opened:
            data = opened.content.read(MAX_IMAGE_BYTES + 1)
        size = size_of_image(data)
        if known.size not in (None, size):
            told = "{} x {}".format(*size)
            places.refuse("image of another size than its list says", told)
            return None
        image = read_image(data, *how.size, how.channels or RGB, stretched=True)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
    except DataError as error:
        places.refuse(error.what, str(error.found)[:120])
    else:
        boxes = _boxes(known, size, 1 / max(how.size), places)
        if boxes is not None:
            return image, boxes
        places.refuse(LOST)
    return None


def _boxes(
    known: ListedImage, size: tuple[int, int], least: float, places: Places
) -> list[Box] | None:
    """As shares of the image; `least`: of a side. What is too small to be seen is left out.

    None: one lies outside, or all are too small: the answer would not be what is there.
    """
    width, height = size
    found: list[Box] = []
    for drawn in known.boxes:
        given = (drawn.x, drawn.y, drawn.x + drawn.width, drawn.y + drawn.height)
        cut = [min(max(side, 0.0), most) for side, most in zip(given, (*size, *size), strict=True)]
        left, top, right, bottom = cut[0] / width, cut[1] / height, cut[2] / width, cut[3] / height
        if left >= right or top >= bottom:
            places.refuse("box outside of its image", drawn.told)
            return None
        elif right - left < least or bottom - top < least:
            places.refuse(
                "box smaller than a pixel, in the size that images are read in", drawn.told
            )
        else:
            if max(abs(a - b) for a, b in zip(cut, given, strict=True)) > MOST_BEYOND:
                places.mend("box that reaches out of its image")
            found.append(Box(left, top, right, bottom, drawn.label))
    return found if found or not known.boxes else None


# ------------------------------------------------------------------ scenes


def _is_idx(source: Source) -> bool:
    items = file_items(source, SUFFIXES, EXCLUDED)
    return any(labels_beside(item, items) for item in items)


def _scene_items(source: Source, how: _How) -> list[Any]:
    """The files, for their content, and parts of the scenes; those first that are held out."""
    layout = layout_of(source)
    splits = {known.split for known in layout.wanted.values()}
    if not {"train", "test"} <= splits:
        raise DataError(
            f"scenes are made of training and test images; {source.source} lacks some",
            found=", ".join(sorted(splits)),
            expected="train-images-idx3-ubyte and t10k-images-idx3-ubyte, with their labels",
        )
    made = f"scenes {LOGIC_VERSION}, Pillow {metadata.version('pillow')}"
    counts = [-(-how.scenes[split] // BATCH) for split, _ in SPLITS]
    parts = [DatasetItem(number, f"{made}, part {number}") for number in range(sum(counts))]
    return [*layout.items, *parts]


def _scenes(source: Source, how: _How, number: int) -> Iterator[Document]:
    width, height = how.size
    if width != height:
        raise SpecError("scenes are square", found=f"{width} x {height}", do="options: {size: 48}")
    num_held = -(-how.scenes["heldout"] // BATCH)
    split: Split = "heldout" if number < num_held else "train"
    part = number if split == "heldout" else number - num_held
    things = _things(source, "test" if split == "heldout" else "train", how.classes)
    for at in range(part * BATCH, min(how.scenes[split], (part + 1) * BATCH)):
        words = (how.seed, split == "heldout", at)
        image, boxes = scene(things, width, how.things, [int(word) for word in words])
        yield _document(f"scene {at} of {split}", image, boxes, split)


def _things(source: Source, split: str, classes: Sequence[str]) -> Things:
    """Raises DataError where files or classes do not fit."""
    layout = known_layout(source)
    name = next(name for name, known in layout.wanted.items() if known.split == split)
    item = next(item for item in layout.items if item.name == name)
    try:
        images, labels = read_idx(item, 3), read_idx(layout.labels[name], 1)
    except streams.SourceFault as fault:
        raise DataError(f"{name}: {fault.args[0]}") from fault
    if len(images) != len(labels) or not images.size:
        raise DataError(f"{name}: idx files of different lengths, or empty")
    if classes and int(labels.max()) >= len(classes):
        found = f"label {labels.max()} of {len(classes)} classes"
        raise DataError(f"{name}: label beyond options.classes", found=found)
    return Things(images, [classes[n] if classes else str(n) for n in labels.tolist()])


FIELD = BoxesField()
