"""OCR: people's files, lines that are drawn, who is held out, signs counted, a miniature."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

import itertools

from PIL import Image, ImageDraw, ImageFont

from tests.fields.support import miniature as tiny
from tests.fields.support import read_all
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.metrics import ACCURACY, CER, CER_NEW_FONTS
from whorl.core.ports import Source
from whorl.core.reasons import Reason
from whorl.fields import ocr_readers, printed
from whorl.fields.base import find_field
from whorl.fields.ocr import graded
from whorl.fields.printed import known_fonts
from whorl.wiring.data import with_sources

FIELD = find_field("ocr")


def fonts() -> str:
    """A folder of some fonts: those that come with matplotlib."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs fonts: matplotlib brings some")
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf"))


def of(path: Path, **options: str) -> Source:
    return Source(path.name, "ocr", folder=str(path.parent), options=options)


def draw(path: Path, text: str, seed: int = 0) -> None:
    """Black on white, in a size and on a noise that the seed says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (20 + 10 * len(text), 34), 255)
    ImageDraw.Draw(image).text((10, 8), text, 0, ImageFont.load_default(12 + seed % 4))
    noise = np.random.default_rng(seed).integers(0, 12, (image.height, image.width))
    Image.fromarray(
        (np.asarray(image) - np.minimum(noise, np.asarray(image))).astype(np.uint8)
    ).save(path)


def refused(reasons: Counter[str]) -> dict[str, int]:
    return {str(reason): count for reason, count in reasons.items()
            if not isinstance(reason, Reason) or reason.kind == "refused"}  # fmt: skip


# ------------------------------------------------------------------ people's files


def test_texts_beside_images(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            draw(root / split / f"{number}.png", f"line {number} of {split}")
            (root / split / f"{number}.txt").write_text(f"  line {number}\tof {split}\n")
    draw(root / "train" / "alone.png", "nobody says")
    (root / "train" / "stray.txt").write_text("no image")
    (root / "train" / "3.txt").write_text("")
    (root / "train" / "broken.png").write_bytes(b"no image")
    (root / "train" / "broken.txt").write_text("what")
    Image.new("L", (50, 20), 255).save(root / "train" / "blank.png")
    (root / "train" / "blank.txt").write_text("what")
    draw(root / "train" / "long.png", "what")
    (root / "train" / "long.txt").write_text("x" * 121)
    draw(root / "train" / "wide.png", "what")
    (root / "train" / "wide.txt").write_text("ж" * 120)  # of two bytes: signs are counted
    documents, reasons = read_all(FIELD, of(root))
    found = {d.name: (d.parts[2].value, d.split) for d in documents}
    assert found == {
        **{f"train/{n}.png": (f"line {n} of train", "train") for n in range(3)},
        "train/wide.png": ("ж" * 120, "train"),
        **{f"test/{n}.png": (f"line {n} of test", "heldout") for n in range(2)},
    }
    assert refused(reasons) == {
        **{"line without a text": 1, "line with a text of more than 120 signs": 1},
        **{"this is no image": 1, "image on which nothing is written": 1},
    }
    others = {str(r): r.kind for r in reasons if isinstance(r, Reason) and r.kind == "passed over"}
    assert set(others) == {"image without a text", "file that is the text of no image"}
    (document, *_) = documents
    assert [part.codec for part in document.parts] == ["line", "special", "text"]
    assert [part.trained for part in document.parts] == [False, False, True] and document.whole
    assert document.parts[0].value.shape[0] == 16


@pytest.mark.parametrize("kind", ["tsv", "bare tsv", "csv", "jsonl"])
def test_tables_name_images_and_bad_rows_are_told(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "scans"
    for number in range(3):
        draw(root / "lines" / f"{number}.png", f"word {number}")
    draw(tmp_path / "outside.png", "outside")
    rows = [(f"lines/{n}.png", f"word {n}") for n in range(3)]
    rows += [("lines/0.png", "again"), ("lines/9.png", "nowhere"), ("../outside.png", "outside")]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": p, "text": t}) + "\n" for p, t in rows)
    else:
        sign = "," if kind == "csv" else "\t"
        head = [] if kind == "bare tsv" else [("path", "transcription")]
        text = "".join(f"{p}{sign}{t}\n" for p, t in [*head, *rows])
    (root / f"list.{kind.split()[-1]}").write_text(text)
    documents, reasons = read_all(FIELD, of(root))
    assert {d.parts[2].value for d in documents} == {"word 0", "word 1", "word 2"}
    assert refused(reasons) == {
        **{"row of an image that has a text already": 1, "row whose image is not there": 1},
        "row whose path leads out of the source": 1,
    }
    alone, _ = read_all(FIELD, of(root / f"list.{kind.split()[-1]}"))
    assert [d.name for d in alone] == [d.name for d in documents]


def test_equal_texts_are_on_one_side(tmp_path: Path) -> None:
    for number in range(60):
        draw(tmp_path / "scans" / f"{number}.png", f"text {number % 20}")
        (tmp_path / "scans" / f"{number}.txt").write_text(f"text {number % 20}")
    documents, _ = read_all(FIELD, of(tmp_path / "scans", heldout="0.3"))
    sides: dict[str, set[Any]] = {}
    for document in documents:
        sides.setdefault(document.parts[2].value, set()).add(document.split)
    assert len(sides) == 20 and all(len(side) == 1 for side in sides.values())
    assert {side for each in sides.values() for side in each} == {"train", "heldout"}


def test_a_source_without_lines_is_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "scans" / "a.png", "alone")
    with pytest.raises(DataError, match="no image with a text"):
        FIELD.items(of(tmp_path / "scans"))
    for wrong in ({"height": "0"}, {"height": "2"}, {"most": "121"}):
        with pytest.raises(SpecError, match=r"options\.(height|most)"):
            FIELD.items(of(tmp_path / "scans", **wrong))


def test_folders_say_the_split_and_words_of_images_do_not(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    for name in ("train/pregnancy test", "train/validation of tickets", "test2017/train ride"):
        draw(root / f"{name}.png", name)
        (root / f"{name}.txt").write_text(name)
    documents, _ = read_all(FIELD, of(root))
    assert {d.name.partition("/")[0]: d.split for d in documents} == {
        "train": "train",
        "test2017": "heldout",
    }


# ------------------------------------------------------------------ lines that are drawn


def of_texts(path: Path, count: int = 90, **options: str) -> Source:
    """A file of lines, and the fonts."""
    path.mkdir(parents=True, exist_ok=True)
    words = ["shell", "whorl", "turn", "grows", "spiral", "inner", "lip", "last", "coil"]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 3)) + f" {number}" for number in range(count)]
    (path / "lines.txt").write_text("\n".join([*lines, "x", "ü" * 20, "y" * 80]))
    asked = {"fonts": "here", "heldout_fonts": "*Mono*", "lines": "80", "heldout_lines": "12"}
    return Source(
        *("lines.txt", "ocr"),
        folder=str(path),
        options={**asked, **options},
        others={"fonts": (Source(f"{fonts()}/DejaVu*Bold.ttf", "ocr"),)},
    )


def test_drawn_lines_are_apart_and_repeatable(tmp_path: Path) -> None:
    source = of_texts(tmp_path)
    documents, reasons = read_all(FIELD, source)
    again, _ = read_all(FIELD, source)
    for one, other in zip(documents, again, strict=True):
        assert one.name == other.name and (one.parts[0].value == other.parts[0].value).all()
    kinds = Counter((d.split, d.name.startswith(printed.NEW_FONT)) for d in documents)
    assert kinds == {("heldout", False): 12, ("heldout", True): 12, ("train", False): 80}
    texts = {split: {d.parts[2].value for d in documents if d.split == split}
             for split in ("train", "heldout")}  # fmt: skip
    assert not texts["train"] & texts["heldout"]
    known = known_fonts([source])
    for document in documents:
        found = printed.line_key(document.name)
        assert found is not None and found[2] == document.parts[2].value
        assert ("Mono" in found[0]) == document.name.startswith(printed.NEW_FONT)
        image = printed.drawn_again(document.name, known)
        assert image is not None and image.shape[0] > 16
    assert refused(reasons) == {
        "line of fewer than 4 or more than 48 signs": 2,
        "line with other signs than those of ASCII": 1,
    }
    assert (
        printed.line_key("scan.png") is None
        and printed.drawn_again("a [1 2 3 4]: b", known) is None
    )


def test_a_share_of_what_is_learned_is_some_words_of_a_line(tmp_path: Path) -> None:
    whole, _ = read_all(FIELD, of_texts(tmp_path))
    source = of_texts(tmp_path, short="0.5", short_signs="9")
    documents, _ = read_all(FIELD, source)
    again, _ = read_all(FIELD, source)
    assert [d.name for d in documents] == [d.name for d in again]
    held = {d.parts[2].value for d in documents if d.split == "heldout"}
    cut = 0
    for before, after in zip(whole, documents, strict=True):
        text, line = after.parts[2].value, before.parts[2].value
        if after.split == "heldout" or text == line:
            assert after.name == before.name
            assert (after.parts[0].value == before.parts[0].value).all()
            continue
        cut += 1
        assert f" {text} " in f" {line} " and 4 <= len(text) <= 9 and text not in held
        assert after.parts[0].value.shape[1] < before.parts[0].value.shape[1]
        assert printed.drawn_again(after.name, known_fonts([source])) is not None
    assert 25 <= cut <= 55  # of 80: seven standard deviations of the binomial around 40
    for wrong in ({"short": "-0.1"}, {"short": "2"}, {"short_signs": "3"}):
        with pytest.raises(SpecError, match=r"options\.short"):
            FIELD.items(of_texts(tmp_path, **wrong))


def test_words_that_are_held_out_as_a_line_are_not_learned(tmp_path: Path) -> None:
    """Texts of two words: each of the words is a line as well, some of them held out."""
    source = of_texts(tmp_path, short="1", short_signs="8", heldout="0.3")
    words = [f"word{number:02d}" for number in range(40)]
    lines = [*words, *(f"{one} {other}" for one, other in itertools.pairwise(words))]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    documents, _ = read_all(FIELD, source)
    learned = {d.parts[2].value for d in documents if d.split == "train"}
    held_words = {*words} & set(
        printed.Printed(source, {**FIELD.options, **source.options}).lines("heldout")
    )
    assert held_words and not held_words & learned and len(learned & {*words}) > 5


def test_fonts_are_needed_on_both_sides(tmp_path: Path) -> None:
    source = of_texts(tmp_path, heldout_fonts="NoSuchFont*")
    with pytest.raises(DataError, match="one side without fonts"):
        list(FIELD.read(source, FIELD.items(source)[-1], print))
    nothing = of_texts(tmp_path, text="words", most="5")
    with pytest.raises(DataError, match=r"no lines to draw.*options\.text"):
        list(FIELD.read(nothing, FIELD.items(nothing)[-1], print))
    with pytest.raises(DataError, match="names no font"):
        FIELD.items(Source("lines.txt", "ocr", folder=str(tmp_path), options=dict(source.options)))


def test_known_fonts_one_name_are_told_apart_and_broken_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ttf"
    for folder, name in (("a", "DejaVuSans-Bold.ttf"), ("b", "DejaVuSerif-Bold.ttf")):
        (path / folder).mkdir(parents=True)
        copyfile(Path(fonts(), name), path / folder / "Same.ttf")
    (path / "broken.ttf").write_bytes(b"no font")
    source = replace(
        of_texts(tmp_path, heldout_fonts="", heldout_lines="4"),
        others={"fonts": (Source(str(path), "ocr"),)},
    )
    documents, reasons = read_all(FIELD, source)
    used = {(printed.line_key(document.name) or ("",))[0] for document in documents}
    assert used == {"0/a/Same.ttf", "0/b/Same.ttf"}
    assert refused(reasons)["font that cannot be opened"] == 1
    broken = replace(source, others={"fonts": (Source(str(path / "broken.ttf"), "ocr"),)})
    with pytest.raises(DataError, match=r"broken\.ttf"):
        FIELD.items(broken)


def test_lines_are_those_that_the_file_has_now(tmp_path: Path) -> None:
    source = of_texts(tmp_path, lines="8", heldout_lines="2")
    before, _ = read_all(FIELD, source)
    lines = [f"another {number}" for number in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    after, _ = read_all(FIELD, source)
    assert not {d.parts[2].value for d in before} & set(lines)
    assert {d.parts[2].value for d in after} <= set(lines)


def test_signs_are_counted_and_fonts_kept_apart() -> None:
    assert graded("a  shell", "a shell")[CER] == (0.0, 7.0)
    found = graded("a shall", "a shell!")
    assert found[CER] == found[CER_NEW_FONTS] == (2.0, 8.0) and found[ACCURACY] == (0.0, 1.0)
    task: Any = FIELD.task
    assert task.is_of(CER, "DejaVuSans.ttf [0 1 0 3]: text") and task.is_of(CER, "scan.png")
    assert not task.is_of(CER, "new font FreeSerif.ttf [0 1 1 3]: text")
    assert task.is_of(CER_NEW_FONTS, "new font FreeSerif.ttf [0 1 1 3]: text")
    scan = "new font sample.png"
    assert task.is_of(CER, scan) and not task.is_of(CER_NEW_FONTS, scan)


@pytest.mark.skipif(not ocr_readers.is_there(), reason=f"needs tesseract: {ocr_readers.INSTALL}")
def test_tesseract_reads_what_is_drawn(tmp_path: Path) -> None:
    source = of_texts(tmp_path)
    documents, _ = read_all(FIELD, source)
    held = [document for document in documents if document.split == "heldout"]
    cer, exact, new = with_sources({"ocr": FIELD}, [source])["ocr"].baselines([], held, None)
    assert "tesseract" in cer.name and cer.note == "images as drawn"
    assert cer.value < 0.2 and exact.value > 0.3 and new.num_documents == 12


def test_without_its_font_a_line_is_shown_as_the_codec_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where nobody tells the sources: the note says so."""
    held = [d for d in read_all(FIELD, of_texts(tmp_path))[0] if d.split == "heldout"]
    shown: list[Any] = []

    def reader(images: Any) -> list[str]:
        shown.extend(images)
        return [document.parts[2].value for document in held]

    monkeypatch.setattr(ocr_readers, "is_there", lambda: True)
    monkeypatch.setattr(ocr_readers, "version", lambda: "reader")
    monkeypatch.setattr(ocr_readers, "tesseract", reader)
    scores = FIELD.baselines([], held, None)
    assert {score.note for score in scores} == {"24 of 24 as the codec keeps them"}
    for image, document in zip(shown, held, strict=True):
        margin = ocr_readers.MARGIN_PX
        ink = 255 - image[margin:-margin, margin:-margin]
        assert (ink == document.parts[0].value).all() and image[0].min() == 255
    source = of_texts(tmp_path)
    told = with_sources({"ocr": FIELD, "text": find_field("text")}, [source])
    scores = told["ocr"].baselines([], held, None)
    assert {score.note for score in scores} == {"images as drawn"}
    (tmp_path / "others").mkdir()
    for name, font in known_fonts([source]).items():
        assert font is not None
        (tmp_path / "others" / name).write_bytes(Path(font.path).read_bytes() + b" ")
    others = replace(source, others={"fonts": (Source(str(tmp_path / "others"), "ocr"),)})
    assert set(known_fonts([source, others]).values()) == {None}  # several of each name
    assert printed.drawn_again(held[0].name, known_fonts([source, others])) is None


def test_what_is_absent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr_readers, "which", lambda name: None)
    assert FIELD.baselines([], [], None) == []
    assert "apt-get install tesseract-ocr" in FIELD.absent()  # type: ignore[attr-defined]


# ------------------------------------------------------------------ a miniature


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of single words in one font."""
    pytest.importorskip("torch", reason="needs the extra train")
    root = tmp_path_factory.mktemp("words")
    words = ["shell", "whorl", "turn", "grows", "inner"]
    for number in range(300):
        split = "test" if number % 15 == 0 else "train"
        draw(root / "data" / split / f"{number}.png", words[number % 5], number)
        (root / "data" / split / f"{number}.txt").write_text(words[number % 5])
    options = {"height": "12", "book": "32", "ids": "1"}
    entry = {"source": root / "data", "field": "ocr", "options": options}
    kept = {"vocab_size": 320, "near_duplicate_jaccard": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        yield tiny(patch, root / "runs", entry, (160, 1280), 240, prepare=kept, rate=0.02)


def test_a_miniature_learns_to_read(miniature: Any) -> None:
    found = json.loads(miniature.evaluate().file("scores.json").read_bytes())
    scores = {row["field"]: row["value"] for row in found["scores"] if row["kind"] == "model"}
    assert scores["ocr"] < 0.2 and "ocr/cer_new_fonts" not in scores, scores
    tokens = Tokens.load(miniature.prepare().path / "tokens")
    assert set(tokens.codecs) == {"line", "text"}
