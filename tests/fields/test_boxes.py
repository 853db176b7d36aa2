"""Boxes: COCO's lists, what is refused by row, overlaps, scenes, the classical method."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from PIL import Image

from tests.fields.support import miniature as tiny
from tests.fields.support import read_all
from tests.fields.test_images import idx
from whorl.codecs.boxes import Box, box_lines, boxes_in
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.metrics import MEAN_IOU, RECALL_AT_50
from whorl.core.ports import Source
from whorl.core.reasons import Reason
from whorl.fields import box_files
from whorl.fields.base import find_field
from whorl.fields.box_finders import Gradients, found_boxes
from whorl.fields.box_scores import graded, grades_of, overlaps
from whorl.fields.scenes import Things, scene

FIELD = find_field("boxes")


def of(path: Path, **options: str) -> Source:
    return Source(path.name, "boxes", folder=str(path.parent), options=options)


def save(path: Path, size: tuple[int, int] = (60, 40), level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, 10)).save(path)


def coco(path: Path, images: list[Any], boxes: list[Any]) -> None:
    """Boxes: (image, category, bbox)."""
    rows = [
        {"id": number, "image_id": image, "category_id": kind, "bbox": bbox}
        for number, (image, kind, bbox) in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 7, "name": "fork "}]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def listed(number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 60, "height": 40, **more}


def words_of(reasons: Counter[str]) -> dict[str, int]:
    return {str(reason): count for reason, count in reasons.items()
            if not isinstance(reason, Reason) or reason.kind == "refused"}  # fmt: skip


def test_boxes_are_shares_of_the_image_whatever_its_size(tmp_path: Path) -> None:
    save(tmp_path / "data" / "a.png")
    save(tmp_path / "data" / "b.jpg", level=200)
    boxes = [(1, 7, [30, 10, 15, 20]), (1, 1, [0, 0, 6, 40])]
    coco(tmp_path / "data" / "list.json", [listed(1, "a.png"), listed(2, "b.jpg")], boxes)
    documents, reasons = read_all(FIELD, of(tmp_path / "data", size="48"))
    first, second = documents
    assert [part.codec for part in first.parts] == ["image", "special", "boxes", "special"]
    assert [part.trained for part in first.parts] == [False, False, True, True]
    assert boxes_in(first.parts[2].value) == [
        Box(0, 0, 0.1, 1, "cup"),
        Box(0.5, 0.25, 0.75, 0.75, "fork"),
    ]
    assert second.parts[2].value == "" and first.whole
    assert first.parts[0].value.shape == (48, 48, 3)
    assert (first.parts[0].value[..., 0] == 90).all()  # stretched: nothing is added at its border
    assert "cup (1), fork (1)" in " ".join(
        reason.hint for reason in reasons if isinstance(reason, Reason)
    ) or any("cup (1), fork (1)" in reason for reason in reasons)
    alone, _ = read_all(FIELD, of(tmp_path / "data" / "list.json", size="48"))
    assert [d.parts[2].value for d in alone] == [d.parts[2].value for d in documents]


def test_odd_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in (*(f"{letter}.png" for letter in "abcdef"), "many.png", "unlisted.png"):
        save(root / name)
    (root / "broken.png").write_bytes(b"no image")
    save(tmp_path / "outside.png")
    images = [
        *(
            listed(1, "a.png"),
            listed(2, "b.png"),
            listed(3, "c.png", width=61),
            listed(4, "many.png"),
        ),
        *(listed(5, "nowhere.png"), listed(6, "../outside.png"), listed(1, "unlisted.png")),
        *(listed(8, "a.png"), {"id": 9}, "row", listed(10, "broken.png")),
        listed(11, "unlisted.png", width=0),
        *(listed(12, "d.png"), listed(13, "e.png"), listed(14, "f.png")),
    ]
    boxes = [
        (1, 1, [5, 5, 10, 10]),
        *((1, 1, [55, 5, 10, 10]), (1, 1, [5, 5, 0.5, 9])),  # reaches out: cut; too small
        *((12, 1, box) for box in ([5, 5, -1, 9], [1, 2, 3], None, [5, 5, float("inf"), 9])),
        *((12, 1, [5, 5, 9, 9]), (12, 2, [5, 5, 9, 9]), (99, 1, [5, 5, 9, 9])),
        *((13, 1, [70, 5, 9, 9]), (13, 1, [5, 5, 9, 9]), (14, 1, [5, 5, 9, 0.5])),
        *((4, 1, [n, 5, 9, 9]) for n in range(21)),
    ]
    coco(root / "list.json", images, boxes)
    whole = json.loads((root / "list.json").read_text())
    whole["annotations"].append(
        {"id": 77, "image_id": 2, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}
    )
    (root / "list.json").write_text(json.dumps(whole))
    (root / "notes.json").write_text("[1, 2]")
    documents, reasons = read_all(FIELD, of(root))
    assert [document.name for document in documents] == ["a.png"]
    assert len(boxes_in(documents[0].parts[2].value)) == 2
    found = words_of(reasons)
    expected = {
        **{"image of another size than its list says": 1, "image of more than 20 boxes": 1},
        **{"image that is not there": 1, "image outside of the source": 1},
        **{"image whose id is another's too": 1, "image that is listed already": 1},
        **{"image without an id and a file_name": 1, "row of images that is no object": 1},
        **{"this is no image": 1, "image of no usable width and height": 1},
        **{"box outside of its image": 1, "box of an unknown category": 1},
        **{"box smaller than a pixel, in the size that images are read in": 2},
        **{"image of whose boxes one is not read": 4},  # b: a crowd; d, e, f
        **{"box without four numbers: x, y, width, height": 4},
        "box of an image that is not read": 1,
    }
    assert found == expected
    others = {str(r): r.kind for r in reasons if isinstance(r, Reason) and r.kind != "refused"}
    assert others["box that reaches out of its image"] == "mended"
    assert others["box around a crowd"] == "passed over"
    assert others["image that no list names"] == "passed over"
    assert sum("no list names" in reason for reason in reasons.elements()) == 1  # unlisted.png
    assert others["json that lists no boxes"] == "passed over"
    crowded = next(r for r in reasons if "unknown category" in r)
    assert isinstance(crowded, Reason) and "annotation 8" in crowded.hint


def test_lists_may_be_packed_and_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    coco(root / "list.json", [listed(1, "a.png")], [(1, 1, [0, 0, 6, 40])])
    text = (root / "list.json").read_bytes()
    (root / "list.json").unlink()
    (root / "list.json.gz").write_bytes(gzip.compress(text))
    documents, _ = read_all(FIELD, of(root))
    assert [len(boxes_in(document.parts[2].value)) for document in documents] == [1]
    monkeypatch.setattr(box_files, "MAX_LIST_BYTES", len(text) - 1)
    with pytest.raises(DataError, match="list of boxes of more than"):
        FIELD.items(of(root))


def test_many_bad_rows_are_counted_in_little_memory(tmp_path: Path) -> None:
    save(tmp_path / "data" / "a.png")
    rows = [(99, 1, [0, 0, 9, 9])] * 300
    coco(tmp_path / "data" / "list.json", [listed(1, "a.png")], [(1, 1, [0, 0, 6, 40]), *rows])
    source = of(tmp_path / "data")
    assert words_of(read_all(FIELD, source)[1]) == {"box of an image that is not read": 300}
    (told,) = box_files.known_boxes(source).told.values()
    assert len({id(reason) for reason in told}) == 100 and len(list(told)) == 300


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"images": 3}', '{"images": []}'])
def test_a_source_without_boxes_is_an_error(tmp_path: Path, text: str) -> None:
    save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "list.json").write_text(text)
    with pytest.raises(DataError, match="no image with boxes"):
        FIELD.items(of(tmp_path / "data"))


@pytest.mark.parametrize(
    "names", [("instances_train2017", "instances_val2017"), ("train/_a", "test/_a")]
)
def test_lists_say_the_split_by_their_names(tmp_path: Path, names: tuple[str, str]) -> None:
    root = tmp_path / "data"
    for place, name in enumerate(names):
        path = root / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent / "images" if place else path.parent
        save(folder / f"{place}.png", level=place)
        coco(path, [listed(1, f"{place}.png")], [(1, 1, [0, 0, 9, 9])])
    documents, _ = read_all(FIELD, of(root))
    assert {Path(d.name).stem: d.split for d in documents} == {"0": "train", "1": "heldout"}


# ------------------------------------------------------------------ overlaps


def counted_overlap(one: Box, other: Box, grid: int = 40) -> float:
    """By counting squares of a grid: another way to the same number."""
    y, x = (np.mgrid[:grid, :grid] + 0.5) / grid
    masks = [(x > b.left) & (x < b.right) & (y > b.top) & (y < b.bottom) for b in (one, other)]
    return float((masks[0] & masks[1]).sum() / max(1, (masks[0] | masks[1]).sum()))


def test_overlaps_are_those_of_counted_squares() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 41, (30, 2, 2)), axis=1) / 40
    boxes = [Box(*corner.ravel().tolist(), "a") for corner in corners]
    found = overlaps(*(np.array([box.sides for box in boxes]),) * 2)
    for n, one in enumerate(boxes):
        for m, other in enumerate(boxes):
            assert found[n, m] == pytest.approx(counted_overlap(one, other))


def test_each_box_counts_once_and_wrong_ones_cost() -> None:
    one, two = Box(0, 0, 0.5, 0.5, "a"), Box(0.5, 0.5, 1, 1, "b")
    half = Box(0, 0, 0.5, 0.25, "a")
    for given, expected, found in (
        *(([one, two], 1, 2), ([], 0, 0), ([one], 1 / 2, 1), ([one, one, two], 2 / 3, 2)),
        *(([half, two], 3 / 4, 2), ([one._replace(label="b"), two], 1 / 3, 1)),
    ):
        grades = grades_of(given, [one, two])
        assert grades[MEAN_IOU] == (pytest.approx(expected), 1.0)
        assert grades[RECALL_AT_50] == (found, 2.0)
    assert grades_of([], [])[MEAN_IOU] == (1.0, 1.0) and grades_of([one], [])[MEAN_IOU][0] == 0
    right = box_lines([one, two])
    assert graded(right, right)[MEAN_IOU] == (1.0, 1.0)
    assert graded(right + '{"box":[0.1,"label":"a"}', right)[MEAN_IOU][0] == pytest.approx(2 / 3)


# ------------------------------------------------------------------ scenes


def things(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright bars that lie and stand."""
    rng = np.random.default_rng(seed)
    images, labels = np.zeros((count, 12, 12), np.uint8), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        long, thin = rng.integers(9, 12), rng.integers(3, 5)
        shape = (thin, long) if label else (long, thin)
        image[1 : 1 + shape[0], 1 : 1 + shape[1]] = rng.integers(170, 255)
    return images, labels.astype(np.uint8)


def arrays(root: Path) -> Path:
    root.mkdir()
    for number, name in enumerate(("train", "t10k")):
        images, labels = things(seed=number)
        (root / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (root / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root


def test_scenes_show_what_their_boxes_say() -> None:
    images, labels = things()
    known = Things(images, [str(label) for label in labels])
    counts: Counter[int] = Counter()
    for number in range(60):
        canvas, boxes = scene(known, 40, 3, [0, 0, number])
        again, same = scene(known, 40, 3, [0, 0, number])
        assert (canvas == again).all() and boxes == same
        counts[len(boxes)] += 1
        for box in boxes:
            left, top, right, bottom = (round(side * 40) for side in box.sides)
            inside = canvas[top:bottom, left:right]
            assert (right - left > bottom - top) == (box.label == "1")
            assert inside.mean() > 110  # the thing fills its box
        sides = np.array([box.sides for box in boxes])
        assert (overlaps(sides, sides) - np.eye(len(boxes))).max() <= 0.021
    assert set(counts) == {1, 2, 3}


def test_scenes_of_files_are_apart_and_repeatable(tmp_path: Path) -> None:
    source = of(arrays(tmp_path / "bars"), size="32", scenes="260", heldout_scenes="9",
                classes="standing, lying")  # fmt: skip
    documents, reasons = read_all(FIELD, source)
    assert Counter(d.split for d in documents) == {"train": 260, "heldout": 9}
    assert not words_of(reasons) and len({d.name for d in documents}) == 269
    again, _ = read_all(FIELD, source)
    assert all(
        one.name == other.name and (one.parts[0].value == other.parts[0].value).all()
        for one, other in zip(documents, again, strict=True)
    )
    assert {box.label for d in documents for box in boxes_in(d.parts[2].value)} == {
        "standing",
        "lying",
    }
    (tmp_path / "bars" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="training and test images"):
        FIELD.items(source)
    with pytest.raises(SpecError, match=r"options\.things"):
        FIELD.items(of(tmp_path / "bars", things="0"))


def test_windows_of_gradients_find_bars() -> None:
    known = Things(*(lambda i, n: (i, [str(x) for x in n]))(*things()))
    made = [scene(known, 40, 2, [1, n]) for n in range(70)]
    name, found = found_boxes(made[:50], [image for image, _ in made[50:]])
    grades = [grades_of(a, b) for a, (_, b) in zip(found, made[50:], strict=True)]
    recall = sum(g[RECALL_AT_50][0] for g in grades) / sum(g[RECALL_AT_50][1] for g in grades)
    assert "50 images" in name and recall > 0.5, recall
    assert found_boxes([], [made[0][0]])[1] == [[]]
    whole = [(image, [Box(0, 0, 1, 1, "all")]) for image, _ in made[:4]]  # nothing else is there
    assert [b.label for b in found_boxes(whole, [made[0][0]])[1][0]] in ([], ["all"])


def test_gradients_are_by_direction_and_by_place() -> None:
    """A ramp to the right has one direction, one downwards another; the left half of one has it in
    the left cells."""
    ramp = np.tile(np.linspace(0, 255, 32), (32, 1))
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    right, down = (Gradients(image).of(whole).reshape(8, 8, 9) for image in (ramp, ramp.T))
    assert right.sum((0, 1)).argmax() == 0 and down.sum((0, 1)).argmax() in (4, 5)
    half = Gradients(np.minimum(ramp, 120)).of(whole).reshape(8, 8, 9).sum((0, 2))
    assert half[:4].sum() > 10 * half[5:].sum()
    assert (right**2).sum() == pytest.approx(1, abs=1e-4)


def test_gradients_of_a_window_are_those_of_its_pixels() -> None:
    """Cells that begin and end between pixels, beside sums over whole ones."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 60)).astype(np.float64)
    made = Gradients(image)
    window = np.array([[12, 12, 48, 48]]) / 60  # 8 cells of 6 pixels from 6 to 54
    down, right = np.gradient(image / 255)
    size = np.hypot(down, right).reshape(10, 6, 10, 6).sum((1, 3))[1:9, 1:9]
    found = made.of(window).reshape(8, 8, 9)
    np.testing.assert_allclose((found**2).sum(2), size / size.sum(), rtol=1e-4)


# ------------------------------------------------------------------ a miniature


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of bars on small canvases, ready to be trained."""
    pytest.importorskip("torch", reason="needs the extra train")
    folder = tmp_path_factory.mktemp("bars")
    options = {"size": "16", "scenes": "3000", "heldout_scenes": "40", "things": "1", "book": "16"}
    options |= {"books": "places"}
    entry = {"source": arrays(folder / "data"), "field": "boxes", "options": options}
    asked = {"prepare": {"vocab_size": 352}, "evaluate": {"baselines": False}}
    with pytest.MonkeyPatch.context() as patch:
        yield tiny(patch, folder / "runs", entry, (128, 1024), 400, heads=3, rate=0.02, **asked)


def test_a_miniature_finds_bars(miniature: Any) -> None:
    found = json.loads(miniature.evaluate().file("scores.json").read_bytes())
    scores = {row["field"]: row["value"] for row in found["scores"] if row["kind"] == "model"}
    assert scores["boxes"] > 0.4 and scores["boxes/recall_at_50"] > 0.4, scores
    tokens = Tokens.load(miniature.prepare().path / "tokens")
    assert set(tokens.codecs) == {"image", "boxes"} and tokens.codecs["image"].stretched
