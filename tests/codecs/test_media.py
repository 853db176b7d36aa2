"""Values as files: PNG by Pillow alone, bytes of labels and texts, ids to parts and back."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from whorl.codecs.contract import Tokens
from whorl.codecs.image import ImageCodec, fit_image_codec
from whorl.codecs.kinds import load_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import decode_parts, token_space
from whorl.codecs.text import train_text_codec
from whorl.core.errors import DataError, MissingExtra
from whorl.core.ports import Part
from whorl.testing.corpus import tiny_texts


def images(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (count, 6, 8)).astype(np.uint8)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(data, "PNG")
    return data.getvalue()


def test_a_png_is_what_pillow_reads_and_comes_back_as_the_same_ids() -> None:
    codec = fit_image_codec(images(), num_ids=24, patch_size=2)
    assert codec.media_type == "image/png" and codec.white == 16.0
    for image in images(50)[40:]:
        data = codec.to_bytes(image)
        shown = np.asarray(Image.open(io.BytesIO(data)))
        assert shown.shape == (6, 8) and shown.dtype == np.uint8
        np.testing.assert_array_equal(shown, np.round(image.astype(float) * 255 / 16))
        back = codec.from_bytes(data)
        assert np.abs(back - image).max() <= 16 / 510 + 1e-6
        decoded = codec.decode(codec.encode(image))
        assert codec.encode(codec.from_bytes(codec.to_bytes(decoded))) == codec.encode(decoded)
    again = load_codec("image-patches", "image", codec.files())
    assert isinstance(again, ImageCodec) and again.white == 16.0


def test_colours_become_grey_and_other_files_are_refused() -> None:
    codec = fit_image_codec(images(), num_ids=8, patch_size=2)
    grey = np.full((6, 8), 51, np.uint8)
    for mode in ("RGB", "RGBA", "P", "LA"):
        found = codec.from_bytes(png(grey, mode))
        np.testing.assert_allclose(found, 51 / 255 * 16, atol=0.1)
    whole = png(grey)
    for data in (b"", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2], b"BM" + whole):
        with pytest.raises(DataError, match="no image"):
            codec.from_bytes(data)


def test_without_pillow_the_line_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = fit_image_codec(images(), num_ids=8, patch_size=2)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match="pillow"):
        codec.to_bytes(images(1)[0])


def test_labels_and_texts_are_bytes_both_ways() -> None:
    label = LabelCodec(["chat", "Größe"])
    assert label.media_type == "application/x-choice"
    assert label.to_bytes("Größe") == "Größe".encode()
    assert label.from_bytes("Größe".encode()) == "Größe"
    for data in (b"dog", b"\xff"):
        with pytest.raises(DataError, match="no label"):
            label.from_bytes(data)
    text = train_text_codec(tiny_texts(5), 300)
    assert text.media_type == "text/plain"
    assert text.from_bytes(text.to_bytes("naïve 🎉")) == "naïve 🎉"
    with pytest.raises(DataError, match="not UTF-8"):
        text.from_bytes(b"\xff")


def test_parts_come_back_from_their_ids() -> None:
    image = fit_image_codec(images(), num_ids=24, patch_size=2)
    label = LabelCodec(["cat", "dog"])
    text = train_text_codec(tiny_texts(5), 300)
    tokens = Tokens.build({"image": image, "label": label, "text": text}, 400)
    picture = image.decode(image.encode(images(1)[0]))
    parts = [
        Part("text", "What is this? "),
        Part("image", picture),
        Part("special", "<|answer|>"),
        Part("label", "dog"),
        Part("text", "é"),
    ]
    ids = tokens.encode_parts(parts)
    found = decode_parts(tokens, ids)
    assert [part.codec for part in found] == [part.codec for part in parts]
    np.testing.assert_array_equal(found[1].value, picture)
    assert [found[at].value for at in (0, 2, 3, 4)] == [parts[at].value for at in (0, 2, 3, 4)]
    assert tokens.encode_parts(found) == ids and decode_parts(tokens, []) == []
    space = token_space(tokens)
    assert all(i in space.ranges["label"] for i in space.encode([Part("label", "cat")]))
    assert sum(len(ids) for ids in space.ranges.values()) == 24 + 2 + text.num_ids
    two = [space.ranges["image"].start] * (2 * len(image.encode(images(1)[0])))
    labels = [space.ranges["label"][number] for number in (1, 0)]
    found = decode_parts(tokens, two + labels)
    assert [part.codec for part in found] == ["image", "image", "label", "label"]
    assert [part.value for part in found[2:]] == ["dog", "cat"]
    assert tokens.encode_parts(found) == two + labels
