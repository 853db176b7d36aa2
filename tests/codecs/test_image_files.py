"""Files of images: what each kind and mode becomes, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from whorl.codecs import image_files
from whorl.codecs.image_files import GREY, RGB, read_image
from whorl.core.errors import DataError


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def picture(width: int = 12, height: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pixels_of_the_wanted_size_are_kept(kind: str) -> None:
    pixels = picture()
    data = saved(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(read_image(data, 12, 8, RGB), pixels)
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(data, 12, 8, GREY) - pixels @ weights).max() <= 1


def test_jpeg_and_gif_are_near(tmp_path: object) -> None:
    smooth = np.linspace(0, 255, 96).reshape(8, 12).astype(np.uint8)
    for kind in ("JPEG", "GIF"):
        found = read_image(saved(Image.fromarray(smooth), kind), 12, 8, GREY)
        assert np.abs(found.astype(int) - smooth).max() < 8


def test_another_size_fits_whole_into_the_middle() -> None:
    data = saved(Image.new("L", (40, 20), 200), "PNG")
    found = read_image(data, 8, 8, GREY)
    assert (found[2:6] == 200).all() and (found[:2] == 0).all() and (found[6:] == 0).all()
    wide = read_image(saved(Image.new("RGB", (1, 900), (10, 20, 30)), "PNG"), 8, 8, RGB)
    assert (wide[:, 3] == (10, 20, 30)).all() and (wide[:, 5:] == 0).all()


def test_orientation_of_a_photo_is_honoured() -> None:
    upright = np.zeros((8, 8), np.uint8)
    upright[:4] = 255  # bright above
    for orientation, turned in ((3, np.rot90(upright, 2)), (6, np.rot90(upright)), (1, upright)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(np.ascontiguousarray(turned)), "PNG", exif=exif)
        np.testing.assert_array_equal(read_image(data, 8, 8, GREY), upright)


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    levels = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    found = read_image(saved(Image.fromarray(levels), "PNG"), 8, 8, GREY)
    np.testing.assert_array_equal(found, np.round(levels / 257).astype(np.uint8))


def test_cmyk_palettes_and_single_bits_are_read() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 0, 0, 0))  # no ink: white
    assert read_image(saved(ink, "JPEG"), 8, 8, RGB).min() > 250
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))
    for mode in ("P", "1"):
        found = read_image(saved(Image.fromarray(stripes).convert(mode), "PNG"), 8, 8, GREY)
        np.testing.assert_array_equal(found, stripes)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 10, 10, 90, 90, 90])
        image.putpixel((0, 0), 1)
        data = saved(image, "PNG", transparency=0)
        expected = 90
    else:
        image = Image.new(mode, (8, 8), (10, 0) if mode == "LA" else (10, 10, 10, 0))
        image.putpixel((0, 0), (40, 255) if mode == "LA" else (40, 40, 40, 255))
        data, expected = saved(image, "PNG"), 40
    found = read_image(data, 8, 8, GREY)
    assert found[0, 0] == expected and (found.ravel()[1:] == 255).all()


def test_of_moving_images_the_first_is_taken() -> None:
    frames = [Image.new("L", (8, 8), level) for level in (30, 200)]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.abs(read_image(data, 8, 8, GREY).astype(int) - 30).max() <= 1


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is as large as this."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8_000, 7_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"more than 50,000,000 pixels|no image"):
        read_image(bomb(*size), 8, 8, GREY)


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_IMAGE_BYTES", 2**20)
    with pytest.raises(DataError, match="more than 1 MiB"):
        read_image(bytes(2**20 + 1), 8, 8, GREY)


def test_cut_and_foreign_files_are_refused() -> None:
    photo = Image.fromarray(picture(64, 48))
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = saved(photo, kind)
        for share in (0.02, 0.3, 0.6):
            with pytest.raises(DataError, match="no image"):
                read_image(data[: int(len(data) * share)], 8, 8, RGB)
    for foreign in (b"", b"\0" * 400, b"GIF89a", b"%PDF-1.7", saved(photo, "BMP"), bomb(0, 5)):
        with pytest.raises(DataError, match="no image"):
            read_image(foreign, 8, 8, RGB)


def test_flipped_bits_give_an_image_or_an_error_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        whole = saved(
            Image.fromarray(picture(24, 24)), kind, **({} if kind == "GIF" else {"exif": exif})
        )
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3).tolist():
                data[place] ^= 1 << int(rng.integers(8))
            try:
                found = read_image(bytes(data), 8, 8, RGB)
            except DataError:
                continue
            assert found.shape == (8, 8, 3) and found.dtype == np.uint8


def test_what_is_no_image_is_told_in_the_same_words_each_time() -> None:
    """Records are the same bytes for the same input: no address of an object in memory."""
    told = set()
    for _ in range(3):
        with pytest.raises(DataError) as caught:
            read_image(b"words" * 9, 8, 8, 1)
        told.add(str(caught.value))
    (only,) = told
    assert "45 bytes that begin as b'wordswor'" in only and "0x" not in only
