"""Classifying on the page: a drawing, and a photo that is dropped, get a bar for every class."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site, real_site
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import token_space
from whorl.codecs.text import train_text_codec
from whorl.testing.corpus import tiny_texts

BARS = "[...document.querySelectorAll('#classify-result .bars li')].map((row) => row.innerText)"
DROP = """(async () => {
  const bytes = Uint8Array.from(atob("%s"), (char) => char.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "photo.png", { type: "image/png" }));
  const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  document.querySelector("#classify-input canvas").dispatchEvent(event);
})()"""


def likes(site: Site, label: str) -> None:
    """The engine finds this class three times as likely as each other."""
    tokens = site.app.state.gateway.tokens
    codec = tokens.codecs["label"]
    liked = token_space(tokens).ranges["label"][codec.labels.index(label)]
    site.engine.asked = []

    def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
        site.engine.asked.append(tuple(prefix))
        return [np.log([3.0 if i == liked else 1.0 for i in ids]) for ids in sequences]

    site.engine.score = score


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model that sees images of 8 x 8 pixels in colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    image = fit_image_codec(pixels, 12, 4, white=255.0)
    tokens = Tokens.build({"image": image, "label": LabelCodec(["cat", "dog", "fox"])}, 64)
    with real_site(tokens, tmp_path_factory.mktemp("home")) as found:
        yield found


def asked_of(site: Site, pixels: np.ndarray) -> tuple[int, ...]:
    tokens = site.app.state.gateway.tokens
    first = token_space(tokens).ranges["image"][0]
    ids = (first + number for number in tokens.codecs["image"].encode(pixels))
    return (*tokens.contract.start_ids, *ids, tokens.contract.special["<|answer|>"])


def test_a_drawing_is_classified_as_it_is_drawn(browser: Browser, drawing: Site) -> None:
    likes(drawing, "dog")
    drawing.enter(browser)
    assert browser.evaluate("document.getElementById('tab-classify').ariaSelected") == "true"
    assert browser.evaluate("document.getElementById('classify-go').disabled")
    browser.focus("#classify-input .pad")
    for key in ("ArrowUp", " "):
        browser.press(key)
    browser.has("#classify-result .chosen", "dog")
    assert browser.evaluate(BARS) == ["dog\n75%", "cat\n25%"]
    assert len(drawing.engine.asked[-1]) == 1 + 4 + 1
    likes(drawing, "cat")
    browser.press("Enter", CTRL)
    browser.has("#classify-result .chosen", "cat")
    browser.press("Delete")
    browser.wait_for("!document.querySelector('#classify-result .chosen')")
    assert browser.complaints() == []


def test_a_photo_is_dropped_and_sent_as_small_as_it_is_seen(
    browser: Browser, photos: Site, tmp_path: Path
) -> None:
    likes(photos, "fox")
    photos.enter(browser)
    large, data = Image.new("RGB", (640, 640), (200, 30, 60)), io.BytesIO()
    large.save(data, "PNG")
    browser.evaluate(DROP % base64.b64encode(data.getvalue()).decode())
    browser.has("#classify-result .chosen", "fox")
    assert browser.evaluate(BARS) == ["fox\n60%", "cat\n20%", "dog\n20%"]
    seen = np.broadcast_to(np.array([200, 30, 60], np.uint8), (8, 8, 3))
    assert photos.engine.asked[-1] == asked_of(photos, seen)
    browser.click("#classify-code")
    browser.click("#code-python")
    assert 'client.post("/classify"' in browser.text("#code")
    browser.click("#code-close")
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, 1280])
def test_the_room_fits_the_window(browser: Browser, photos: Site, width: int) -> None:
    photos.enter(browser)
    browser.look(width, 740)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


TAKE = """(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const press = () => document.querySelector("#classify-input .camera button").click();
  press();
  const video = document.querySelector("#classify-input video");
  for (let tries = 0; !video.videoWidth && tries < 200; tries += 1) await wait(20);
  await wait(300);
  press();
  return [video.videoWidth, video.hidden];
})()"""


def test_a_photograph_is_taken_and_the_camera_closed(browser: Browser, photos: Site) -> None:
    likes(photos, "cat")
    photos.enter(browser)
    assert browser.evaluate(TAKE)[0] > 0  # Chromium's fake device
    browser.has("#classify-result .chosen", "cat")
    assert browser.evaluate("document.querySelector('#classify-input video').hidden")
    colours = (
        "(() => { const { data } = document.querySelector('#classify-input canvas')"
        ".getContext('2d').getImageData(0, 0, 8, 8);"
        " return new Set(Array.from({ length: 64 }, (_, n) =>"
        " data.slice(4 * n, 4 * n + 3).join())).size; })()"
    )
    assert browser.evaluate(colours) > 3  # it shows something
    assert browser.complaints() == []


def test_what_is_written_on_an_image_is_read(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    codecs = {
        "image": fit_image_codec(pixels, 12, 4, white=255.0),
        "text": train_text_codec(tiny_texts(5), 300),
    }
    tokens = Tokens.build(codecs, 400)
    with real_site(tokens, tmp_path_factory.mktemp("home")) as site:
        site.engine.reply = lambda request: tokens.encode_prompt("whorl <b>1</b>")[1:]
        site.enter(browser)
        assert browser.evaluate("document.body.dataset.tab") == "read"
        image, data = Image.new("RGB", (64, 64), (200, 30, 60)), io.BytesIO()
        image.save(data, "PNG")
        drop = DROP.replace("classify", "read") % base64.b64encode(data.getvalue()).decode()
        browser.evaluate(drop)
        browser.has("#read-result", "whorl <b>1</b>")
        assert site.engine.submitted[-1].prompt_ids[-1] == tokens.contract.special["<|answer|>"]
        assert browser.complaints() == []
