"""Images: folders, tables and idx files as they say, copies that are moved, odd input told."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from PIL import Image

from tests.fields.support import read_all
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.fields.base import find_field, options_of
from whorl.fields.image_copies import moved

FIELD = find_field("images")


def drawn(kind: str, seed: int, size: int = 24) -> Image.Image:
    """A bright square or a bright disc somewhere, on noise."""
    rng = np.random.default_rng([seed, len(kind)])
    pixels = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
    y, x = np.mgrid[:size, :size] - rng.integers(9, 15, (2, 1, 1))
    shape = np.maximum(abs(y), abs(x)) < 6 if kind == "square" else y**2 + x**2 < 45
    pixels[shape] = rng.integers(180, 255, 3)
    return Image.fromarray(pixels)


def folders(root: Path, count: int = 6, below: str = "") -> Path:
    for kind in ("square", "disc"):
        folder = root / below / kind
        folder.mkdir(parents=True)
        for number in range(count):
            drawn(kind, number).save(folder / f"{number}.png")
    return root


def folders_of_one(root: Path) -> Path:
    (root / "disc").mkdir(parents=True)
    return root / "disc"


def of(path: Path, **options: str) -> Source:
    return Source(path.name, "images", folder=str(path.parent), options=options)


def labels_of(documents: list[Document]) -> Counter[str]:
    return Counter(document.parts[2].value for document in documents)


def first_of(reasons: Counter[str], words: str) -> Reason:
    (found,) = [reason for reason in reasons if words in reason]
    assert isinstance(found, Reason)
    return found


def test_the_first_folder_is_the_class(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes")
    (root / "disc" / "more").mkdir()
    drawn("disc", 50).save(root / "disc" / "more" / "deep.jpg")
    documents, reasons = read_all(FIELD, of(root, copies="1", size="24"))
    assert labels_of(documents) == {"square": 6, "disc": 7}
    assert {document.name for document in documents} >= {"disc/more/deep.jpg", "square/0.png"}
    by_name = {document.name: document for document in documents}
    np.testing.assert_array_equal(
        by_name["square/3.png"].parts[0].value, np.asarray(drawn("square", 3))
    )
    for document in documents:
        assert [part.codec for part in document.parts] == ["image", "special", "label", "special"]
        assert [part.trained for part in document.parts] == [False, False, True, True]
    assert first_of(reasons, "classes by folders").kind == "read"
    assert "disc (7), square (6)" in str(next(iter(reasons)))


def test_equal_images_are_on_one_side_and_a_share_is_held_out(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes", 40)
    for number in range(40):
        drawn("disc", number).save(root / "disc" / f"again-{number}.webp", lossless=True)
    documents, _ = read_all(FIELD, of(root, copies="2", heldout="0.3"))
    sides: dict[bytes, set[str]] = {}
    originals = [document for document in documents if "~" not in document.name]
    for document in originals:
        sides.setdefault(document.parts[0].value.tobytes(), set()).add(str(document.split))
    assert all(len(side) == 1 for side in sides.values())
    held = sum(document.split == "heldout" for document in originals)
    assert 0.15 * len(originals) < held < 0.45 * len(originals)
    copies = [document for document in documents if "~" in document.name]
    assert {document.split for document in copies} == {"train"}
    assert len(copies) == len(originals) - held


def test_splits_are_those_of_the_folders(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    for split in ("Train", "val", "test"):
        folders(root, 3, split)
    documents, _ = read_all(FIELD, of(root, copies="1"))
    assert Counter(str(document.split) for document in documents) == {"train": 6, "heldout": 6}
    held = {document.name for document in documents if document.split == "heldout"}
    assert all(name.startswith("test/") for name in held)
    _, reasons = read_all(FIELD, of(root, copies="2"))
    unused = first_of(reasons, "neither learned nor asked")
    assert reasons[unused] == 6 and unused.kind == "passed over"  # each once, not once a copy
    documents, _ = read_all(FIELD, of(root, copies="1", asked="valid"))
    held = {document.name for document in documents if document.split == "heldout"}
    assert len(held) == 6 and all(name.startswith("val/") for name in held)
    for path in (root / "test").rglob("*.png"):
        path.unlink()
    documents, _ = read_all(FIELD, of(root, copies="1"))
    assert {d.name.split("/")[0] for d in documents if d.split == "heldout"} == {"val"}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_name_images_and_bad_rows_are_told_with_their_lines(
    tmp_path: Path, kind: str
) -> None:
    root = folders(tmp_path / "shapes", 3)
    drawn("disc", 9).save(tmp_path / "outside.png")
    rows = [
        ("square/0.png", "Quadrat"),
        ("square/0.png", "Kreis"),
        ("../outside.png", "Kreis"),
        ("/etc/passwd", "Kreis"),
        ("nowhere.png", "Kreis"),
        ("disc/1.png", ""),
        (str(root / "disc" / "2.png"), "Kreis"),
        ("./disc/0.png", "Kreis"),
    ]
    with (root / f"labels.{kind}").open("w", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps({"image": p, "label": c}) + "\n" for p, c in rows)
        else:
            table = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            table.writerows([("Image", "Label"), *rows])
    documents, reasons = read_all(FIELD, of(root, copies="1"))
    assert labels_of(documents) == {"Quadrat": 1, "Kreis": 2}
    assert first_of(reasons, "has one already").place is not None
    line = first_of(reasons, "leads out").place
    assert line is not None and line.line == (3 if kind == "jsonl" else 4)
    assert reasons[first_of(reasons, "leads out")] == 2
    for words in ("not there", "without a path and a label"):
        assert reasons[first_of(reasons, words)] == 1
    passed = first_of(reasons, "no table names")
    assert passed.kind == "passed over" and reasons[passed] == 3
    alone, _ = read_all(
        FIELD, of(root / f"labels.{kind}", copies="1")
    )  # the table itself as the source
    assert labels_of(alone) == labels_of(documents)


def test_a_table_may_say_the_split(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes", 3)
    lines = [
        "file_name,label,split",
        *(f"{k}/{n}.png,{k},train" for k in ("disc", "square") for n in (0, 1)),
    ]
    lines += ["disc/2.png,disc,test", "square/2.png,square,elsewhere"]
    (root / "metadata.csv").write_text("\n".join(lines))
    documents, reasons = read_all(FIELD, of(root, copies="1"))
    assert Counter(str(document.split) for document in documents) == {"train": 4, "heldout": 1}
    assert reasons[first_of(reasons, "unknown split")] == 1


def test_hostile_and_odd_files_are_told_by_reason(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes", 3)
    (root / "disc" / "empty.png").write_bytes(b"")
    (root / "disc" / "text.jpg").write_text("no image")
    whole = io.BytesIO()
    drawn("disc", 7).save(whole, "PNG")
    (root / "disc" / "cut.png").write_bytes(whole.getvalue()[:200])
    (root / "loose.png").write_bytes(whole.getvalue())
    (root / "README").write_text("squares and discs")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    (root / "disc" / ".hidden.png").write_bytes(whole.getvalue())
    os.symlink(root / "nothing.png", root / "disc" / "link.png")
    documents, reasons = read_all(FIELD, of(root, copies="2"))
    originals = [document for document in documents if "~" not in document.name]
    assert labels_of(originals) == {"square": 3, "disc": 3}
    broken = first_of(reasons, "this is no image")
    assert reasons[broken] == 3 and broken.kind == "refused"  # each once, not once a copy
    assert reasons[first_of(reasons, "outside the folders of classes")] == 1
    assert reasons[first_of(reasons, "names no image")] == 2
    assert reasons[first_of(reasons, "link to nothing")] == 1


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    drawn("disc", 0).save(tmp_path / "flat" / "0.png")
    with pytest.raises(DataError, match="no images with classes"):
        FIELD.items(of(tmp_path / "flat"))
    drawn("disc", 1).save(folders_of_one(tmp_path / "one") / "1.png")
    with pytest.raises(DataError, match=r"no classes to choose from; found: .*disc \(1\)"):
        FIELD.items(of(tmp_path / "one"))
    for options in (
        *({"size": "30"}, {"size": "0"}, {"size": "28x28x28"}, {"size": "9999"}, {"ids": "0"}),
        *({"colour": "mauve"}, {"flips": "maybe"}, {"asked": "all"}, {"heldout": "2"}),
    ):
        with pytest.raises(SpecError, match=f"options.{next(iter(options))}"):
            FIELD.items(of(folders(tmp_path / str(options)), **options))
    with pytest.raises(SpecError, match="did you mean colour"):
        options_of(FIELD, {"color": "grey"})


# ------------------------------------------------------------------ files of the MNIST kind


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return head + values.tobytes()


def arrays(root: Path, train: int = 30, test: int = 10) -> Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 8, 12)).astype(np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        (root / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (root / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return root


def test_idx_files_are_read_as_they_are(tmp_path: Path) -> None:
    root = arrays(tmp_path / "mnist")
    documents, reasons = read_all(FIELD, of(root, copies="1", classes="ankle boot, bag, coat"))
    assert Counter(str(document.split) for document in documents) == {"train": 30, "heldout": 10}
    assert labels_of(documents) == {"ankle boot": 14, "bag": 13, "coat": 13}
    packed = gzip.decompress((root / "train-images-idx3-ubyte.gz").read_bytes())
    by_name = {document.name: document for document in documents}
    shown = by_name["train-images-idx3-ubyte.gz@7"].parts[0].value
    assert shown.tobytes() == packed[16 + 7 * 96 : 16 + 8 * 96] and shown.shape == (8, 12)
    assert all(reason.kind == "read" for reason in reasons if isinstance(reason, Reason))
    documents, _ = read_all(FIELD, of(root, copies="1", valid="9", asked="valid"))
    held = {document.name for document in documents if document.split == "heldout"}
    assert held == {f"train-images-idx3-ubyte.gz@{number}" for number in range(21, 30)}
    assert len(documents) == 30
    documents, _ = read_all(FIELD, of(root, copies="1", valid="9"))
    assert Counter(str(document.split) for document in documents) == {"train": 21, "heldout": 10}
    _, reasons = read_all(FIELD, of(root, copies="2", valid="9"))
    assert reasons[first_of(reasons, "neither learned nor asked")] == 9


def test_idx_files_that_lie_are_told(tmp_path: Path) -> None:
    root = arrays(tmp_path / "mnist")
    images = gzip.decompress((root / "train-images-idx3-ubyte.gz").read_bytes())
    for data, words in (
        (images[:-1], "another length than it says"),
        (b"", "no idx file"),
        (images[:3] + b"\x02" + images[4:], "no idx file"),
        (b"\0\0\x0d\x03" + images[4:], "no idx file"),
        (idx(np.zeros((29, 8, 12), np.uint8)), "different lengths"),
        (idx(np.zeros((30, 7, 12), np.uint8)), "do not tile"),
    ):
        (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
        documents, reasons = read_all(FIELD, of(root, copies="1"))
        assert {document.split for document in documents} == {"heldout"}
        assert reasons[first_of(reasons, words)] == 1
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    _, reasons = read_all(FIELD, of(root, copies="1", classes="boot,bag"))
    assert reasons[first_of(reasons, "beyond options.classes")] == 10 + 3


# ------------------------------------------------------------------ copies, codecs, baselines


def test_copies_are_moved_by_hand_and_repeatable() -> None:
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    seen = set()
    for seed in range(200):
        found = moved(image, np.random.default_rng(seed), 1, flips=False)
        assert (found == moved(image, np.random.default_rng(seed), 1, flips=False)).all()
        (down, right), fits = (0, 0), []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                drawn_out = np.pad(image, 1, mode="edge")
                expected = drawn_out[1 - down : 6 - down, 1 - right : 7 - right]
                fits += [(down, right)] * bool((expected == found).all())
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9
    mirrored = [moved(image, np.random.default_rng(seed), 0, flips=True) for seed in range(100)]
    assert all((m == image).all() or (m == image[:, ::-1]).all() for m in mirrored)
    assert 25 < sum((m == image).all() for m in mirrored) < 75


def test_rows_of_training_are_not_alike(tmp_path: Path) -> None:
    """Copies come in rounds, each in an order of its own; classes are mixed."""
    documents, _ = read_all(FIELD, of(folders(tmp_path / "shapes", 20), copies="3"))
    rounds = [document.name.partition("~")[2] or "0" for document in documents]
    assert rounds == sorted(rounds)
    orders = [
        [d.name.partition("~")[0] for d in documents if (d.name.partition("~")[2] or "0") == r]
        for r in "12"
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    labels = "".join(document.parts[2].value[0] for document in documents)
    assert "s" * 15 not in labels and "d" * 15 not in labels


def test_codecs_follow_the_options_and_the_vocabulary(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes", 12)
    source = of(root, copies="2", size="24", patch="4", ids="2", book="16")
    documents, _ = read_all(FIELD, source)
    options = {"vocab_size": 100, "seed": 0, "options": dict(source.options)}
    train = [document for document in documents if document.split == "train"]
    codecs = FIELD.fit_codecs(train, options)
    assert codecs["image"].num_ids == 32 and codecs["image"].value_ids == 72
    assert codecs["label"].num_ids == 2
    assert FIELD.fit_codecs(train, {**options, "vocab_size": 22})["image"].num_ids == 20
    ids, mask = Tokens.build(codecs, 64).encode_document(documents[0])
    lengths = {len(Tokens.build(codecs, 64).encode_document(document)[0]) for document in documents}
    assert lengths == {len(ids)} == {1 + 72 + 3 + 1} and sum(mask) == 3
    placed = {"options": {**source.options, "books": "places", "ids": "1"}, "seed": 0}
    found = FIELD.fit_codecs(train, {**placed, "vocab_size": 600})["image"]
    assert found.books[0].shape[:2] == (36, 16)
    found = FIELD.fit_codecs(train, {**placed, "vocab_size": 200})["image"]
    assert found.num_ids <= 198 and found.books[0].shape[0] == 36
    opened = FIELD.fit_codecs(train, {**placed, "vocab_size": 200, "is_open": True})["image"]
    assert opened.books[0].shape[:2] == (36, 16)
    grey, _ = read_all(FIELD, of(root, copies="1", colour="grey"))
    assert {document.parts[0].value.shape for document in grey} == {(32, 32)}
    originals = [document for document in train if "~" not in document.name]
    assert FIELD.fit_codecs(originals, options)["image"].files() == codecs["image"].files()


def test_baselines_answer_what_scikit_learn_does(tmp_path: Path) -> None:
    documents, _ = read_all(FIELD, of(folders(tmp_path / "shapes", 30), copies="2", size="24"))
    train = [document for document in documents if document.split == "train"]
    held = [document for document in documents if document.split == "heldout"]
    linear, near, commonest = FIELD.baselines(train, held, None)
    originals = [document for document in train if "~" not in document.name]
    assert f"{len(originals)} images" in linear.name and "nearest" in near.name
    truth = np.array([document.parts[2].value for document in held])
    known = np.stack([d.parts[0].value.ravel() for d in originals]).astype(np.float64)
    asked = np.stack([d.parts[0].value.ravel() for d in held]).astype(np.float64)
    votes = ((asked[:, None] - known[None]) ** 2).sum(-1).argsort(1, kind="stable")[:, :5]
    answers = np.array([d.parts[2].value for d in originals])[votes]
    majority = ["disc" if (row == "disc").sum() > 2 else "square" for row in answers]
    assert near.value == pytest.approx((np.array(majority) == truth).mean())
    counts = Counter(d.parts[2].value for d in originals)
    most = [label for label in counts if counts[label] == max(counts.values())]
    assert len(most) == 1  # or a tie would be decided by whoever comes first
    assert commonest.value == (truth == most[0]).mean()


def test_one_picture_in_two_classes_is_on_one_side(tmp_path: Path) -> None:
    root = folders(tmp_path / "shapes", 30)
    for number in range(30):
        drawn("disc", number).save(root / "square" / f"again-{number}.png")
    documents, _ = read_all(FIELD, of(root, copies="1", heldout="0.4"))
    sides: dict[bytes, set[str]] = {}
    for document in documents:
        sides.setdefault(document.parts[0].value.tobytes(), set()).add(str(document.split))
    assert len(sides) == 60 and all(len(side) == 1 for side in sides.values())


@pytest.mark.parametrize(("key", "value"), [("classes", "a,b"), ("valid", "3")])
def test_options_of_idx_files_are_for_them_alone(tmp_path: Path, key: str, value: str) -> None:
    root = folders(tmp_path / "shapes")
    with pytest.raises(SpecError, match=rf"options\.{key} is for idx files alone.*folders"):
        FIELD.items(of(root, **{key: value}))
    (root / "labels.csv").write_text("path,label\ndisc/0.png,disc\n")
    with pytest.raises(SpecError, match=rf"options\.{key} is for idx files alone.*tables"):
        FIELD.items(of(root, **{key: value}))


def test_the_last_images_are_asked_where_there_is_no_test_set(tmp_path: Path) -> None:
    root = arrays(tmp_path / "mnist")
    for path in root.glob("t10k*"):
        path.unlink()
    documents, _ = read_all(FIELD, of(root, copies="1", valid="9"))
    held = {document.name for document in documents if document.split == "heldout"}
    assert held == {f"train-images-idx3-ubyte.gz@{number}" for number in range(21, 30)}
    assert len(documents) == 30


def test_a_folder_beside_those_of_splits_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    for split in ("train", "test", "extra"):
        folders(root, 2, split)
    with pytest.raises(DataError, match=r"splits stand beside others; found: extra, test, train"):
        FIELD.items(of(root))
    other = tmp_path / "vehicles"  # of which train is one
    for kind in ("train", "car", "test"):
        (other / kind).mkdir(parents=True)
        drawn("disc", 1).save(other / kind / "1.png")
    assert labels_of(read_all(FIELD, of(other, copies="1"))[0]) == {"train": 1, "car": 1, "test": 1}
