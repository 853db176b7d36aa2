"""Things on an image <-> tokens: of each box its four sides and what is in it, five ids.

A value is JSON Lines, a box a line: {"box":[left,top,right,bottom],"label":name}, sides as shares
of the image's width and height. Every id stands for a fixed piece of such a line, so that an answer
is JSON as it comes, id by id. Sides are rounded to the nearest of `bins` equal steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from whorl.core.digests import canonical_json
from whorl.core.errors import DataError, RecordError
from whorl.core.nearest import meant

__all__ = ["IDS_PER_BOX", "Box", "BoxesCodec", "box_lines", "boxes_in", "load"]

FILE = "boxes.json"
NUM_SIDES = 4
IDS_PER_BOX = NUM_SIDES + 1
DECIMALS = 4  # of a side
BEFORE, BEHIND = ('{"box":[', "", "", ""), (",", ",", ",", "],")  # the number of each side
LINE = '{"box":[left,top,right,bottom],"label":name}, sides as shares of the image'


class Box(NamedTuple):
    """Where something is and what; sides from 0 to 1 of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float
    label: str

    @property
    def sides(self) -> tuple[float, float, float, float]:
        return self.left, self.top, self.right, self.bottom


class BoxesCodec:
    """Local ids: of left sides, 0 to bins; of tops, right sides, bottoms; then of the labels."""

    kind = "boxes"
    media_type = "application/x-ndjson"
    value_ids = None

    def __init__(self, labels: Sequence[str], bins: int, name: str = "boxes") -> None:
        """Raises DataError without labels, or with one that comes twice, or without steps."""
        if not labels or len(set(labels)) != len(labels) or bins < 1:
            raise DataError(
                "a codec of boxes needs distinct labels and steps",
                found=f"{len(labels)} labels, {len(set(labels))} distinct, {bins} steps",
            )
        self.name, self.labels, self.bins = name, tuple(labels), bins
        self.first_label = NUM_SIDES * (bins + 1)
        self.num_ids = self.first_label + len(self.labels)
        self.told = f"sides of boxes are known to 1/{bins} of an image's"
        self._numbers = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def fit(cls, values: Iterable[str], bins: int) -> BoxesCodec:
        """With the labels that occur, sorted. Raises DataError if there is none."""
        return cls(sorted({box.label for value in values for box in boxes_in(value)}), bins)

    def encode(self, value: Any) -> list[int]:
        """Five ids a box, in their order. Raises DataError on other labels, or what is no box."""
        ids = []
        for box in boxes_in(value):
            steps = [round(side * self.bins) for side in box.sides]
            ids += [place * (self.bins + 1) + step for place, step in enumerate(steps)]
            ids.append(self.first_label + self._number(box.label))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces that ids stand for: of boxes, whole lines."""
        return "".join(self._piece(int(number)) for number in ids)

    def to_bytes(self, value: Any) -> bytes:
        """JSON Lines in UTF-8, whole lines. Raises DataError as `encode`."""
        return self.decode(self.encode(value)).encode()

    def from_bytes(self, data: bytes) -> str:
        """Raises DataError on bytes that are no boxes."""
        return self.decode(self.encode(data.decode("utf-8", "replace")))

    def files(self) -> dict[str, bytes]:
        return {FILE: canonical_json({"labels": list(self.labels), "bins": self.bins}).encode()}

    def _number(self, label: str) -> int:
        if label not in self._numbers:
            raise DataError(
                f"there is no {self.name} label {label[:80]!r}{meant(label, self.labels)}",
                expected=", ".join(self.labels[:12]),
                do="add it to the training data",
            )
        return self._numbers[label]

    def _piece(self, number: int) -> str:
        if number >= self.first_label:
            label = json.dumps(self.labels[number - self.first_label], ensure_ascii=False)
            return f'"label":{label}}}\n'
        place, step = divmod(number, self.bins + 1)
        return f"{BEFORE[place]}{round(step / self.bins, DECIMALS):g}{BEHIND[place]}"


def box_lines(boxes: Iterable[Box]) -> str:
    """Boxes as JSON Lines, from the left to the right: those that begin alike from the top down."""
    lines = [
        json.dumps({"box": [round(s, DECIMALS) for s in box.sides], "label": box.label})
        for box in sorted(boxes)
    ]
    return "".join(f"{line}\n" for line in lines)


def boxes_in(value: Any) -> list[Box]:
    """The boxes of JSON Lines. Raises DataError naming the first line that is none."""
    if not isinstance(value, str):
        raise DataError(
            "these are no boxes", found=type(value).__name__, expected=f"lines of {LINE}"
        )
    found = []
    for number, line in enumerate(value.split("\n"), 1):
        if line.strip():
            try:
                found.append(_box(json.loads(line)))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise DataError(
                    f"line {number} is no box", found=line[:120], expected=LINE
                ) from error
    return found


def _box(row: Any) -> Box:
    """Raises ValueError, KeyError, TypeError or OverflowError on what is none."""
    sides = [float(side) for side in row["box"]]
    if len(sides) != NUM_SIDES or not all(isfinite(s) and 0 <= s <= 1 for s in sides):
        raise ValueError("not four shares")
    if not isinstance(row["label"], str) or sides[0] > sides[2] or sides[1] > sides[3]:
        raise ValueError("sides the wrong way round, or no label")
    left, top, right, bottom = sides
    return Box(left, top, right, bottom, row["label"])


def load(name: str, files: Mapping[str, bytes]) -> BoxesCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    try:
        value = json.loads(files[FILE])
        labels, bins = value["labels"], value["bins"]
        if not all(isinstance(label, str) for label in labels) or type(bins) is not int:
            raise TypeError("labels are not strings, or steps no number")
        return BoxesCodec(labels, bins, name)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"codec {name} is no codec of boxes", found=error) from error
