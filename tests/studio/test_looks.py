"""In a real browser: contrast in light and dark, a phone's width, keys alone, calm motion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studio.browser import SHIFT, Browser
from tests.studio.conftest import Site

TABS = ("chat", "complete", "compare", "card")
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text("utf-8")


def say(browser: Browser, text: str) -> None:
    browser.focus("#chat-input")
    browser.type(text)
    browser.press("Enter")


def fill_the_page(browser: Browser, scripted: Site) -> None:
    scripted.app.state.refuse = {}
    scripted.enter(browser)
    for box in ("logprobs", "structured", "with-tools"):
        browser.click(f"#{box}")
    say(browser, "weather?")
    browser.has(".results")
    browser.click("#with-tools")
    say(browser, "a long word: " + "x" * 300)
    browser.has(".judged")
    browser.click("#structured")
    say(browser, "markdown")
    browser.has(".answer:last-child .figures", "ended here")


def test_texts_can_be_read_in_light_and_in_dark(browser: Browser, scripted: Site) -> None:
    fill_the_page(browser, scripted)
    grounds = []
    for scheme in ("light", "dark"):
        browser.look(1280, 860, scheme)
        grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        for tab in TABS:
            browser.click(f"#tab-{tab}")
            assert browser.evaluate(CONTRASTS) == [], (scheme, tab)
        browser.click("#key-open")
        assert browser.evaluate(CONTRASTS) == []
        browser.press("Escape")
        browser.wait_for("!document.getElementById('key-dialog').open")
    assert grounds[0] != grounds[1]


@pytest.mark.parametrize("width", [320, 360, 768, 1920])
def test_nothing_is_wider_than_the_window(browser: Browser, scripted: Site, width: int) -> None:
    fill_the_page(browser, scripted)
    browser.look(width, 740)
    for tab in TABS:
        browser.click(f"#tab-{tab}")
        browser.evaluate("document.getElementById('settings').open = true")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, tab
    browser.click("#tab-chat")
    browser.evaluate("document.getElementById('settings').open = false")
    seen = browser.evaluate(
        "(({ top, bottom }) => top >= 0 && bottom <= innerHeight)"
        "(document.getElementById('chat-send').getBoundingClientRect())"
    )
    assert seen  # the composer stays in sight, however long the conversation


def test_everything_is_reached_by_keys(browser: Browser, scripted: Site) -> None:
    scripted.app.state.refuse = {}
    scripted.enter(browser)
    browser.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        browser.press("Tab")
        reached.append(
            browser.evaluate("document.activeElement.id || document.activeElement.tagName")
        )
        outlined = "getComputedStyle(document.activeElement).outlineStyle"
        if reached[-1] != "BODY":
            assert browser.evaluate(outlined) != "none", reached[-1]
    for control in (
        "model-choice",
        "key-open",
        "tab-chat",
        "chat-input",
        "chat-send",
        "temperature",
        "system",
        "logprobs",
        "structured",
        "with-tools",
    ):
        assert control in reached
    browser.focus("#tab-chat")
    for tab in ("complete", "compare", "card", "chat"):
        browser.press("ArrowRight")
        assert browser.evaluate("document.activeElement.id") == f"tab-{tab}"
        assert browser.evaluate(f"!document.getElementById('panel-{tab}').hidden")
    for _ in range(30):
        if browser.evaluate("document.activeElement.id") == "chat-input":
            break
        browser.press("Tab")
    browser.type("hello")
    browser.press("Enter")
    browser.has(".figures", "ended here")
    assert browser.evaluate("document.activeElement.id") == "chat-input"
    for _ in range(10):
        browser.press("Tab", SHIFT)
        if browser.evaluate("document.activeElement.textContent") == "Good":
            break
    browser.press(" ")
    browser.has(".opinion", "Kept")


def test_who_wants_no_motion_gets_none(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    moving = (
        "(() => { const caret = document.createElement('span'); caret.className = 'caret';"
        " document.body.append(caret); const { animationName } = getComputedStyle(caret);"
        " const { transitionDuration } = getComputedStyle(document.querySelector('button'));"
        " caret.remove(); return animationName + transitionDuration; })()"
    )
    assert browser.evaluate(moving) == "none0s"
    browser.look(1280, 860, motion="no-preference")
    assert browser.evaluate(moving).startswith("blink0.12s")
