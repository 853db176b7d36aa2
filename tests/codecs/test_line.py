"""Printed lines: ink of any image of a line, slices and back, what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from PIL import Image

from whorl.codecs.contract import Tokens
from whorl.codecs.kinds import load_codec
from whorl.codecs.line import LineCodec, fit_line_codec
from whorl.codecs.line_images import line_of, read_line
from whorl.codecs.parts import in_words
from whorl.core.errors import DataError, RecordError, SpecError


def bars(seed: int, height: int = 8) -> np.ndarray:
    """Ink of upright bars, some columns wide."""
    rng = np.random.default_rng(seed)
    columns = np.repeat(rng.integers(0, 2, rng.integers(5, 20)), 4) * 255
    return np.tile(columns, (height, 1)).astype(np.uint8)


def page(ink: np.ndarray, paper: int, dark: int, margin: int = 30) -> np.ndarray:
    """Ink as it may stand on paper."""
    whole = np.pad(ink.astype(float) / 255, margin)
    return np.round(paper + (dark - paper) * whole).astype(np.uint8)


def png(levels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(levels).save(data, "PNG")
    return data.getvalue()


def test_a_line_is_the_same_on_any_paper() -> None:
    ink = np.zeros((30, 90), np.uint8)
    ink[:, :20], ink[10:20, 40:60], ink[:, 80:] = 255, 255, 255
    found = [line_of(page(ink, *how), 16, 200) for how in ((250, 10), (20, 240), (180, 90))]
    for one in found:
        assert one.shape == (16, 44)  # 14 rows of ink and a border; as many times as wide
        np.testing.assert_allclose(one.astype(int), found[0].astype(int), atol=8)
    assert found[0][1:15, 1:10].min() > 240 and found[0][0].max() == 0
    near, far = (line_of(page(ink, 250, 10, margin), 16, 200) for margin in (3, 200))
    assert (near == far).all()
    assert (read_line(png(page(ink, 250, 10)), 16, 200) == found[0]).all()


def test_what_is_no_line_is_refused() -> None:
    with pytest.raises(DataError, match="nothing is written"):
        line_of(np.full((20, 40), 200, np.uint8), 16, 200)
    wide = page(np.full((4, 400), 255, np.uint8), 250, 10)
    with pytest.raises(DataError, match="too long for its height"):
        line_of(wide, 16, 640)
    for data in (b"", b"no image", png(wide)[:60]):
        with pytest.raises(DataError, match="no image"):
            read_line(data, 16, 640)
    with pytest.raises(DataError, match="pixels a side"):
        read_line(png(np.zeros((2, 9_000), np.uint8)), 16, 640)


def test_images_of_16_bits_and_transparent_ones_are_read_as_they_look() -> None:
    levels = page(np.tile(bars(3), (3, 1)), 250, 10)
    found = line_of(levels, 16, 200)
    assert (read_line(png(levels.astype(np.uint16) * 257), 16, 200) == found).all()
    ink = np.stack([np.zeros_like(levels), 255 - levels], axis=2)  # black, and clear as paper is
    clear = read_line(png(ink), 16, 200)
    assert abs(clear.astype(int) - found.astype(int)).max() <= 2


def test_large_images_are_refused_before_they_are_decoded_and_short_words_are_read() -> None:
    data = png(np.zeros((2100, 2000), np.uint8))
    with pytest.raises(DataError, match="more than 4,000,000 pixels for one line") as told:
        read_line(data[:200], 16, 200)  # its header alone
    assert "lines of print" in str(told.value)
    scan = np.full((1700, 1200), 240, np.uint8)  # a page at 150 dots an inch, one word
    scan[300:320, 200:203], scan[300:320, 230:233] = 20, 20
    assert line_of(scan, 16, 200).shape == (16, 25)


def test_slices_come_back_and_are_counted() -> None:
    lines = [bars(seed) for seed in range(30)]
    codec = fit_line_codec(lines, 16, num_books=2, step=4, max_width=100)
    assert codec.num_ids == 32 and codec.loss(lines) < 0.5  # of two kinds of slices
    for line in lines:
        ids = codec.encode(line)
        assert len(ids) == 2 * line.shape[1] // 4 and max(ids[0::2]) < 16 <= min(ids[1::2])
        assert (codec.decode(ids) == line).all()
    assert codec.decode(codec.encode(lines[0][:, :10])).shape == (8, 12)  # whole slices
    again = load_codec("line-slices", "line", codec.files())
    assert again.encode(lines[3]) == codec.encode(lines[3]) and again.files() == codec.files()
    assert fit_line_codec(lines, 16, max_width=100).files() == codec.files()
    for value in (np.zeros((7, 9)), np.zeros((8, 0)), np.zeros((8, 101)), "text", np.zeros(8)):
        with pytest.raises(DataError, match="cannot encode"):
            codec.encode(value)


def test_files_of_lines_go_through_png() -> None:
    line = np.pad(bars(1), ((0, 0), (4, 4)))
    codec = fit_line_codec([bars(seed) for seed in range(9)], 8, max_width=200)
    shown = np.asarray(Image.open(io.BytesIO(codec.to_bytes(line))))
    assert (shown == 255 - line).all()
    assert codec.from_bytes(codec.to_bytes(line)).shape[0] == 8
    tokens = Tokens.build({"line": codec}, 64)
    ids = [number + 16 for number in codec.encode(line)]
    assert in_words(tokens, ids) == f"[a printed line of {line.shape[1]} x 8]"


def test_a_codec_refuses_other_books_and_files() -> None:
    good = np.zeros((1, 2, 8), np.float32)
    for books, height in ((good[0], 4), (good, 3), (good * np.nan, 4), (good, 0)):
        with pytest.raises(SpecError, match="do not fit"):
            LineCodec(books, height, 10)
    for data in (b"", b"\0" * 16):
        with pytest.raises(RecordError, match="no codec of lines"):
            load_codec("line-slices", "line", {"slices.safetensors": data})
    with pytest.raises(DataError, match="needs lines"):
        fit_line_codec([], 8, max_width=10)
