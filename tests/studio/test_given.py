"""Images given to the page: what is shown is what is sent, and where it cannot be, it is said."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from PIL import Image

from tests.studio.browser import Browser
from tests.studio.conftest import Site, real_site
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.line import fit_line_codec
from whorl.codecs.text import train_text_codec
from whorl.testing.corpus import tiny_texts

# Drops (bytes in base64, name, milliseconds until it can be read) on a room's canvas, all at once.
GIVE = """(async () => {
  for (const [data, name, wait] of %s) {
    const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    const file = new File([bytes], name);
    file.arrayBuffer = async () => {
      await new Promise((done) => setTimeout(done, wait));
      return bytes.buffer;
    };
    const event = new DragEvent("drop", { cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: { files: [file] } });
    document.querySelector("#%s-input canvas").dispatchEvent(event);
  }
  await new Promise((done) => setTimeout(done, 400));
})()"""
# How many different pixels a room's canvas has, and the first of them.
SEEN = """(() => {
  const canvas = document.querySelector("#%s-input canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const at = (n) => data.slice(4 * n, 4 * n + 4).join();
  const all = Array.from({ length: data.length / 4 }, (_, n) => at(n));
  return [new Set(all).size, all[0]];
})()"""
NO_IMAGE = b"no image, whatever it is called"


def png(pixels: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(data, "PNG")
    return data.getvalue()


def give(browser: Browser, room: str, *files: tuple[bytes, str, int]) -> None:
    listed = [[base64.b64encode(data).decode(), name, wait] for data, name, wait in files]
    browser.evaluate(GIVE % (listed, room))


def line() -> np.ndarray[Any, Any]:
    """Bars on paper."""
    levels = np.full((20, 60), 250)
    levels[5:15, 10:50:4] = 10
    return levels


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model that reads lines of print of any size."""
    rng = np.random.default_rng(0)
    inks = [np.tile(rng.integers(0, 2, 40) * 255, (8, 1)).astype(np.uint8) for _ in range(9)]
    codecs = {
        "line": fit_line_codec(inks, 8, max_width=200),
        "text": train_text_codec(tiny_texts(5), 300),
    }
    tokens = Tokens.build(codecs, 400)
    with real_site(tokens, tmp_path_factory.mktemp("home")) as found:
        found.engine.reply = lambda request: tokens.encode_prompt("bars")[1:]
        yield found


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model that sees images of 8 x 8 pixels in colours, and finds all classes as likely."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    image = fit_image_codec(pixels, 12, 4, white=255.0)
    tokens = Tokens.build({"image": image, "label": LabelCodec(["cat", "dog"])}, 64)
    with real_site(tokens, tmp_path_factory.mktemp("home")) as found:
        found.engine.asked = []

        def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
            found.engine.asked.append(tuple(prefix))
            return [np.zeros(len(ids)) for ids in sequences]

        found.engine.score = score
        yield found


def test_what_cannot_be_shown_takes_the_place_of_what_was(browser: Browser, reading: Site) -> None:
    reading.enter(browser)
    give(browser, "read", (png(line()), "line.png", 0))
    browser.has("#read-result", "bars")
    assert browser.evaluate(SEEN % "read") == [2, "250,250,250,255"]
    give(browser, "read", (NO_IMAGE, "line.heic", 0))
    assert browser.evaluate(SEEN % "read") == [1, "0,0,0,0"]  # nothing
    told = browser.text("#read-input [role=status]")
    assert "cannot show line.heic" in told and f"{len(NO_IMAGE)} bytes" in told
    browser.has("#error", "image")  # the server was given the second one
    assert len(reading.engine.submitted) == 1
    give(browser, "read", (png(line()), "line.png", 0))
    assert "cannot" not in browser.text("#read-input [role=status]")
    assert browser.evaluate(SEEN % "read")[0] == 2


def test_what_cannot_be_read_is_not_taken_and_it_is_said(
    browser: Browser, seeing: Site, drawing: Site
) -> None:
    seeing.enter(browser)
    give(browser, "classify", (png(np.full((20, 20, 3), (200, 30, 60))), "red.png", 0))
    browser.has("#classify-result", "cat")
    before, num_asked = browser.evaluate(SEEN % "classify"), len(seeing.engine.asked)
    assert before == [1, "200,30,60,255"]
    give(browser, "classify", (NO_IMAGE, "red.heic", 0))
    assert "cannot read red.heic" in browser.text("#classify-input [role=status]")
    assert browser.evaluate(SEEN % "classify") == before and len(seeing.engine.asked) == num_asked
    drawing.enter(browser)
    give(browser, "classify", (NO_IMAGE, "drawn.heic", 0))
    assert "cannot read drawn.heic" in browser.text("#classify-input [role=status]")
    assert browser.evaluate("document.getElementById('classify-go').disabled")
    assert browser.complaints() == []


def test_a_slow_image_does_not_take_the_place_of_a_later_one(
    browser: Browser, seeing: Site
) -> None:
    seeing.enter(browser)
    slow = png(np.full((9, 9, 3), (9, 9, 9))), "slow.png", 200
    give(browser, "classify", slow, (png(np.full((9, 9, 3), (50, 60, 70))), "quick.png", 0))
    assert browser.evaluate(SEEN % "classify") == [1, "50,60,70,255"]
