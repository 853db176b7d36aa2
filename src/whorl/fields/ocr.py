"""Printed lines: what is written on an image?

Sources are images with their texts (`whorl.fields.ocr_files`), or texts that are drawn in fonts
(`whorl.fields.printed`; synthetic). An image is trimmed to what is written, scaled to one height
and read from the left to the right, slice by slice (`whorl.codecs.line`); the answer is its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import TEXT
from whorl.codecs.image_files import MAX_IMAGE_BYTES
from whorl.codecs.line import fit_line_codec
from whorl.codecs.line_images import BORDER, line_of, read_line
from whorl.codecs.text import NUM_BYTES, train_text_codec
from whorl.core import streams
from whorl.core.errors import DataError, SpecError
from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, CER, CER_NEW_FONTS, Metric
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Split, Task
from whorl.core.reasons import Place, Reason
from whorl.core.sources import DatasetItem, FileItem
from whorl.core.tasks import WritingTask
from whorl.fields import ocr_readers
from whorl.fields.ocr_files import TABLE, KnownLine, known_lines, line_layout, text_beside
from whorl.fields.places import Places
from whorl.fields.printed import (
    FONT,
    LEAST,
    NEW_FONT,
    Printed,
    drawn_again,
    known_fonts,
    line_key,
    tell_lines,
)
from whorl.fields.speech_words import edits
from whorl.fields.whole import number_of, share_of, share_option

__all__ = ["FIELD", "LINE", "OcrField", "graded"]

LINE, MARK_CODEC, MARK = "line", "special", "<|answer|>"
UNUSED = "line of a split that is neither learned nor asked"
# Of a text, and tokens of an answer: merges make a token of a sign or more in any script. With too
# few of them an answer may need more: evaluation tells how many right ones do.
MOST_SIGNS = 120
LEAST_HEIGHT = 2 * BORDER + 1  # pixels
ABSENT = f"tesseract is not installed: {ocr_readers.INSTALL} puts it beside the model"


def graded(answer: str, right: str) -> dict[Metric, tuple[float, float]]:
    """Of what was read: edits over the signs of the line, and whether it is right; blanks count
    once."""
    given, truth = (" ".join(text.split()) for text in (answer, right))
    cer = (float(edits(list(given), list(truth))), float(len(truth)))
    return {CER: cer, CER_NEW_FONTS: cer, ACCURACY: (float(given == truth), 1.0)}


def _in_seen_font(name: str) -> bool:
    """Not of a drawn line in a held-out font; an image's file may be called anything."""
    return not _in_new_font(name)


def _in_new_font(name: str) -> bool:
    return name.startswith(NEW_FONT) and bool(line_key(name))


TASK = WritingTask(
    grade=graded,
    metric=CER,
    further=(ACCURACY, CER_NEW_FONTS),
    max_tokens=MOST_SIGNS,
    where={
        **dict.fromkeys((CER, ACCURACY), _in_seen_font),
        CER_NEW_FONTS: _in_new_font,
    },
)


@dataclass(frozen=True)
class OcrField:
    """<line> <|answer|> <text>: only the text is learned."""

    name: str = "ocr"
    task: Task = TASK
    logic_version: int = 3
    source_options: tuple[str, ...] = ("fonts",)
    sources: tuple[Source, ...] = ()  # of the documents, where they are told: whose fonts are known
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"height": "16", "step": "4", "ids": "1", "book": "512", "longest": "640"},
            **{"heldout": "0.1", "seed": "0"},
            **{"fonts": "", "heldout_fonts": "", "text": "text", "most": "48"},
            **{"lines": "20000", "heldout_lines": "200", "short": "0", "short_signs": "12"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or has no line."""
        options = _checked({**self.options, **source.options})
        if options["fonts"]:
            return Printed(source, options).items()
        return list(line_layout(source).items)

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError, and SpecError on options that are no numbers."""
        options = _checked({**self.options, **source.options})
        how = (number_of(options, "height"), number_of(options, "longest"))
        if isinstance(item, DatasetItem):
            for drawn in Printed(source, options).drawn(item.number):
                try:
                    yield _document(drawn.name, line_of(drawn.image, *how), drawn.text, drawn.split)
                except DataError as error:
                    reject(Reason(error.what, "refused", Place(drawn.name)))
            return
        places = Places.of(item, reject)
        if not item.is_read:
            places.refuse_item()
        elif options["fonts"]:
            if item.kind != FONT:
                for _ in tell_lines(item, options, reject):
                    pass
        elif item.kind == TABLE:
            for reason in known_lines(source).told[item.name]:
                reject(reason)
        elif item.kind == "file":
            yield from _of_file(source, item, options, how, places)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Codebooks of slices, and byte-level BPE of the texts with the ids that are left."""
        asked = _checked({**self.options, **options.get("options", {})})
        texts: list[str] = []

        def lines() -> Iterator[NDArray[np.uint8]]:
            for document in documents:
                texts.append(document.parts[2].value)
                yield document.parts[0].value

        ids, seed = number_of(asked, "ids", 1), int(options["seed"])
        room = (int(options["vocab_size"]) - NUM_BYTES) // ids
        line = fit_line_codec(
            lines(),
            max(2, min(number_of(asked, "book", 2), room)),
            num_books=ids,
            step=number_of(asked, "step", 1),
            max_width=number_of(asked, "longest", 1),
            seed=seed,
        )
        left = int(options["vocab_size"]) - line.num_ids
        return {TEXT: train_text_codec(texts, left, seed), LINE: line}

    def with_sources(self, sources: tuple[Source, ...]) -> OcrField:
        """The field of these sources: what it is compared with may need their fonts."""
        return replace(self, sources=sources)

    def absent(self) -> str:
        """A method that would stand beside the model, and how to install it; "" if it does."""
        return "" if ocr_readers.is_there() else ABSENT

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """tesseract, where it is installed: of lines that were drawn on the images as they were,
        before they were scaled; of others on what the codec keeps."""
        if not ocr_readers.is_there() or not heldout:
            return []
        images, kept, fonts = [], 0, known_fonts(self.sources)
        for document in heldout:
            image = drawn_again(document.name, fonts)
            kept += image is None
            images.append(_shown(document) if image is None else image)
        answers = ocr_readers.tesseract(images)
        note = f"{kept} of {len(images)} as the codec keeps them" if kept else "images as drawn"
        grades = [
            (document.name, graded(answer, document.parts[2].value))
            for answer, document in zip(answers, heldout, strict=True)
        ]
        found = []
        for metric in (CER, ACCURACY, CER_NEW_FONTS):
            mine = [(name, grade[metric]) for name, grade in grades if TASK.is_of(metric, name)]
            if mine:
                names, numbers = zip(*mine, strict=True)
                measure = QualityMeasure(metric, tuple(names), *np.array(numbers, np.float64).T)
                found.append(score_of(ocr_readers.version(), measure, note=note))
        return found


def _checked(options: Mapping[str, str]) -> Mapping[str, str]:
    """Raises SpecError on a number that is none."""
    for key in ("step", "ids", "longest", "most", "lines", "heldout_lines"):
        number_of(options, key, 1)
    number_of(options, "height", LEAST_HEIGHT)
    number_of(options, "short_signs", LEAST)
    share_option(options, "short", with_ends=True)
    if number_of(options, "most") > MOST_SIGNS:
        expected = f"at most {MOST_SIGNS}: an answer is no longer"
        raise SpecError("data.options.most is too many", found=options["most"], expected=expected)
    return options


def _document(name: str, line: NDArray[np.uint8], text: str, split: Split) -> Document:
    parts = (
        Part(LINE, line, trained=False),
        Part(MARK_CODEC, MARK, trained=False),
        Part(TEXT, text),
    )
    return Document(name, parts, split, whole=True)


def _shown(document: Document) -> NDArray[np.uint8]:
    """The ink of a document made of ids, black on white."""
    ink = np.asarray(document.parts[0].value, np.uint8)
    return np.pad(255 - ink, ocr_readers.MARGIN_PX, constant_values=ocr_readers.PAPER)


# ------------------------------------------------------------------ images in files


def _of_file(
    source: Source,
    item: FileItem,
    options: Mapping[str, str],
    how: tuple[int, int],
    places: Places,
) -> Iterator[Document]:
    layout = known_lines(source)
    known = layout.wanted[item.name]
    text = _text_of(known, places)
    if text is None:
        return
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, None) as opened:
            data = opened.content.read(MAX_IMAGE_BYTES + 1)
        line = read_line(data, *how)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
    except DataError as error:
        places.refuse(error.what, str(error.found)[:120])
    else:
        split = _split_of(layout.asked, known.split, text, options)
        if split is None:
            places.reject(Reason(UNUSED, "passed over", Place(item.name)))
        else:
            yield _document(item.name, line, text, split)


def _text_of(known: KnownLine, places: Places) -> str | None:
    """The text of an image; None: it is refused."""
    text = known.text
    if known.beside is not None:
        beside = replace(known.beside, kind="text")
        text = text_beside(beside, Places(beside, places.reject))
    if 0 < len(text) <= MOST_SIGNS:
        return text
    words = f"line with a text of more than {MOST_SIGNS} signs"
    places.refuse(words if text else "line without a text")
    return None


def _split_of(asked: str, said: str, text: str, options: Mapping[str, str]) -> Split | None:
    """Equal texts are on one side where nobody says. None: it is neither learned nor asked."""
    if asked:
        if said == asked:
            return "heldout"
        return "train" if said in ("train", "") else None
    is_held = share_of(number_of(options, "seed"), text.casefold()) < share_option(
        options, "heldout"
    )
    return "heldout" if is_held else "train"


FIELD = OcrField()
