"""Pictures of the page's rooms, of a model whose answers are rules (`tests.studio.many`).

python -m tests.studio.shots_rooms FOLDER         each room: light, dark, and on a phone
python -m tests.studio.shots_rooms docs/images page-rooms    the pictures of docs/page.md
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.studio.browser import Browser, chromium
from tests.studio.conftest import Site, real_site
from tests.studio.many import Rules, many_tasks, many_tokens
from tests.studio.test_rooms import ROOMS, fill
from tests.studio.worlds import PLAYS

SHAPES = (("light", 1200), ("dark", 1200), ("light", 390))
SHOWN = {"recommend": "light", "play": "dark", "chess": "light"}  # in the docs


def use(browser: Browser, name: str) -> None:
    """Something is asked, and answered, as a person would leave it."""
    fill(browser, name)
    if name == "recommend":
        for film in ("star", "alien"):
            browser.focus("#recommend-input input[role=combobox]")
            browser.type(film)
            browser.has("#recommend-input [role=option]")
            browser.press("Enter")
            time.sleep(0.3)
        browser.evaluate("document.activeElement.blur()")
    elif name == "tags":
        browser.choose(
            "#tags-text", "The quick brown fox jumps over the lazy dog. This old man sees it!"
        )
    elif name == "labels":
        browser.choose("#labels-text", "A player of chess by audio")
    elif name == "classify":
        for key in ("ArrowRight", " ") * 5 + ("ArrowDown", " ") * 6:
            browser.press(key)
    elif name == "chess":
        for square in ("e2", "e4"):
            browser.has(".said", "White to move")
            browser.click(f"[data-square={square}]")
        browser.has(".moves-list", "e2e4 e7e5")
    time.sleep(0.8)


def pictures(browser: Browser, site: Site, folder: Path, only: str = "") -> None:
    site.enter(browser)
    for name in SHOWN if only else ROOMS:
        browser.look(1200, 860)
        use(browser, name)
        for scheme, width in SHAPES:
            if only and (scheme, width) != (SHOWN[name], 1200):
                continue
            browser.look(width, 760 if only else 860, scheme)
            time.sleep(0.1)
            told = f"{only}-{name}" if only else f"{name}-{scheme}-{width}"
            browser.screenshot(folder / f"{told}.png", whole=width < 500)


def main(folder: Path, only: str = "") -> None:
    tokens, rules = many_tokens(), Rules(many_tokens())
    with (
        tempfile.TemporaryDirectory() as place,
        real_site(tokens, Path(place) / "home", 0.0, many_tasks(), PLAYS) as site,
        chromium(Path(place) / "profile") as browser,
    ):
        site.engine.score, site.engine.reply = rules.score, rules.reply
        pictures(browser, site, folder, only)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
