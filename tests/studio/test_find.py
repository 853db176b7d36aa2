"""What is found on an image is framed there, and named."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from tests.studio.browser import Browser
from tests.studio.conftest import Site, real_site
from tests.studio.test_given import give, png
from whorl.codecs.boxes import Box, BoxesCodec, box_lines
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.core.ports import Part

SIDE = 32
BOXES = (Box(0.125, 0.25, 0.5, 0.75, "boot"), Box(0.625, 0.5, 0.875, 0.875, "bag"))
# The colour of a pixel of the room's picture, at shares of its width and height.
COLOUR = """(() => {
  const canvas = document.querySelector("#find-result canvas");
  const [x, y] = [%s * canvas.width, %s * canvas.height];
  return canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3).join();
})()"""


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE)).astype(np.uint8)
    boxes = BoxesCodec(["bag", "boot"], 64)
    tokens = Tokens.build({"image": fit_image_codec(pixels, 16, 8), "boxes": boxes}, 512)
    answer = tokens.encode_parts([Part("boxes", box_lines(BOXES))])
    with real_site(tokens, tmp_path_factory.mktemp("home"), tasks=()) as found:
        found.engine.reply = lambda request: answer
        yield found


def test_each_box_is_framed_and_named(browser: Browser, finding: Site) -> None:
    finding.enter(browser)
    assert browser.text("nav button[aria-selected=true]") == "Find"
    grey = np.full((SIDE, SIDE), 90)
    give(browser, "find", (png(grey), "shoes.png", 0))
    browser.has("#find-result .legend", "bag")
    assert browser.text("#find-result .legend li") == "boot\nbag"
    assert browser.complaints() == []
    inside = browser.evaluate(COLOUR % (0.3, 0.6))
    assert inside == "90,90,90"  # what the model was shown
    frames = set()
    for box in BOXES:
        middle = (box.top + box.bottom) / 2
        edges = {browser.evaluate(COLOUR % (side, middle)) for side in (box.left, box.right)}
        assert len(edges) == 1 and edges != {inside}
        frames |= edges
    assert len(frames) == len(BOXES)  # a colour of its own for each name
