"""The pictures of docs/page.md: python -m tests.studio.shots docs/images"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn

from tests.studio.browser import Browser, chromium
from tests.studio.scripted import scripted_app

PORT = 8137


def say(browser: Browser, text: str) -> None:
    browser.click("#chat-new")
    browser.focus("#chat-input")
    browser.type(text)
    browser.press("Enter")
    browser.has(".figures", "ended here")
    browser.evaluate("scrollTo(0, 0)")
    time.sleep(0.2)


def main(folder: Path) -> None:
    app = scripted_app()
    server = uvicorn.Server(uvicorn.Config(app, port=PORT, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.look(1200, 760)
        browser.open(app.state.access.page_address(f"http://127.0.0.1:{PORT}"))
        browser.wait_for("document.querySelector('#chat-send:not([disabled])') !== null")
        say(browser, "What is a whorl?")
        browser.screenshot(folder / "page-chat.png")
        browser.look(1200, 760, "dark")
        browser.click("#logprobs")
        say(browser, "And how sure are you?")
        browser.point(".token:nth-child(11)")
        time.sleep(0.2)
        browser.screenshot(folder / "page-tokens.png")
    server.should_exit = True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
