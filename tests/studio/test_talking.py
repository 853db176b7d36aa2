"""In a real browser, against whorl's own server: typing, streaming, stopping, errors, opinions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import API_KEY, Site, real_site
from tests.studio.payloads import PAYLOADS
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.testing.corpus import tiny_tokens

TEXT = "The shell adds 12 stones; naïve 漢字 and 🎉🎉 by the sea."
# Elements of an answer that the page's own code does not make.
STRANGE = """(() => {
  const names = /^(P|UL|OL|LI|PRE|CODE|STRONG|EM|H[3-6]|BLOCKQUOTE|HR|SPAN|DIV|DETAILS|SUMMARY)$/;
  const attributes = ["class", "start", "tabindex", "aria-label", "aria-hidden"];
  const known = (each) => names.test(each.tagName)
    && [...each.attributes].every(({ name }) => attributes.includes(name));
  const all = [...document.querySelectorAll(".answer .body *")];
  return all.filter((each) => !known(each)).map((each) => each.outerHTML);
})()"""


def reply_with(site: Site, text: str) -> list[int]:
    ids = list(site.app.state.gateway.tokens.encode_prompt(text)[1:])
    site.engine.reply = lambda request: ids[: request.max_tokens]
    return ids


def say(browser: Browser, text: str) -> None:
    browser.focus("#chat-input")
    browser.type(text)
    browser.press("Enter")


def inside(site: Site) -> int:
    return int(site.app.state.gateway.inside)


def wait_until_free(site: Site) -> None:
    end_s = time.monotonic() + 3
    while inside(site) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert inside(site) == 0


def test_a_person_chats_and_sees_tokens_arrive(browser: Browser, site: Site) -> None:
    site.enter(browser)
    assert browser.evaluate("location.href") == f"{site.base_url}/"  # no token left in it
    ids = reply_with(site, TEXT)
    say(browser, "What does the shell do?")
    browser.has(".answer .body", TEXT[:3])
    early = browser.text(".answer .body")
    assert TEXT.startswith(early) and len(early) < len(TEXT)  # it grows
    browser.has(".figures", "ended here")
    assert browser.text(".answer .body") == TEXT
    assert f"{len(ids)} tokens" in browser.text(".figures")
    assert "tokens/s" in browser.text(".figures")
    assert browser.text("#status").startswith("The answer is complete")
    asked = site.engine.submitted[-1]
    assert (asked.temperature, asked.top_p, asked.seed) == (0.7, 0.95, 0)

    say(browser, "And then?")
    browser.wait_for("document.querySelectorAll('.answer[aria-busy=false]').length === 2")
    tokens = site.app.state.gateway.tokens
    chat = [
        {"role": "user", "content": "What does the shell do?"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "And then?"},
    ]
    expected, _ = tokens.encode_chat({"messages": chat, "tools": None}, True)
    assert site.engine.submitted[-1].prompt_ids == tuple(expected.tolist())
    assert all(url.startswith(site.base_url) for url in browser.requested())
    assert browser.complaints() == []


def test_stop_ends_the_answer_at_the_engine_too(browser: Browser, site: Site) -> None:
    site.enter(browser)
    site.engine.reply = lambda request: [300] * request.max_tokens
    browser.evaluate("document.getElementById('max-tokens').value = 4000")
    say(browser, "go on")
    browser.wait_for("document.querySelector('.answer .body')?.textContent.length > 3")
    assert browser.evaluate("document.getElementById('chat-send').hidden")
    browser.press("Escape")
    browser.has(".figures", "Stopped")
    wait_until_free(site)
    browser.click("#tab-complete")
    browser.focus("#prompt")
    browser.press("Enter", CTRL)
    browser.wait_for("document.querySelector('#completion .said')?.textContent.length > 3")
    browser.click("#stop")
    browser.has("#completion .figures", "Stopped")
    wait_until_free(site)


def test_a_completion_goes_on_from_its_prompt(browser: Browser, site: Site) -> None:
    site.enter(browser)
    reply_with(site, TEXT)
    browser.click("#tab-complete")
    assert browser.evaluate("document.getElementById('prompt').value") == "The shell"
    browser.click("#generate")
    browser.has("#completion .figures", "ended here")
    assert browser.text("#completion .echo") == "The shell"
    assert browser.text("#completion .said") == TEXT


def test_errors_are_told_and_can_be_tried_again(browser: Browser, site: Site) -> None:
    site.enter(browser)
    reply_with(site, TEXT)
    gateway = site.app.state.gateway
    before, gateway.stopping = gateway.stopping, True
    say(browser, "hello")
    browser.has(".failed", "The server is stopping")
    gateway.stopping = before
    browser.click(".failed .row button")
    browser.has(".figures", "ended here")
    assert browser.text(".answer .body") == TEXT

    site.engine.reply = lambda request: [300] * 500
    say(browser, "and now break")
    browser.wait_for("document.querySelector('.answer:last-child .body').textContent.length > 3")
    site.engine.fail("out of memory")
    browser.has(".failed", "out of memory")
    wait_until_free(site)

    browser.evaluate("document.getElementById('temperature').value = 9")
    say(browser, "hot")
    browser.has("#error", "settings")
    browser.evaluate("document.getElementById('temperature').value = 0")
    browser.evaluate("document.getElementById('max-tokens').value = 4000")
    browser.evaluate("document.getElementById('chat-input').value = 'long '.repeat(3000)")
    browser.focus("#chat-input")
    browser.press("Enter")
    browser.has(".failed", "context")


def test_opinions_are_kept_with_what_they_are_about(browser: Browser, site: Site) -> None:
    assert site.home is not None
    site.enter(browser)
    reply_with(site, TEXT)
    say(browser, "rate me")
    browser.has(".opinion button", "Good")
    browser.click(".opinion button")
    browser.has(".opinion", "Kept")
    browser.click(".opinion button:nth-of-type(3)")
    browser.evaluate("document.querySelector('.correction textarea').select()")
    browser.type("The shell grows.")
    browser.click(".correction .main")
    browser.has(".opinion", "correction is kept")
    path = site.home / ".serving" / "feedback.jsonl"
    rated, corrected = [json.loads(line) for line in path.read_text("utf-8").splitlines()][-2:]
    assert rated["rating"] == "up" and rated["answer"] == TEXT and rated["model"] == "tiny"
    assert corrected["correction"] == "The shell grows."
    assert corrected["messages"] == [{"role": "user", "content": "rate me"}]
    assert rated["id"] and rated["id"] == corrected["id"]


def test_without_cookie_the_key_is_asked_for_and_kept_in_the_tab(
    browser: Browser, site: Site
) -> None:
    browser.look(1280, 860)
    browser.call("Network.clearBrowserCookies")
    browser.open(f"{site.base_url}/?token=old")
    browser.wait_for("document.getElementById('key-dialog').open")
    assert browser.evaluate("location.href") == f"{site.base_url}/"
    for key, title in (("wrong-key-0123456789", "asks for"), (API_KEY, "was not taken")):
        browser.has("#key-dialog[open] h2", title)
        browser.wait_for("document.activeElement.id === 'key'")
        browser.type(key)
        browser.press("Enter")
    browser.wait_for("document.title === 'tiny · whorl'")
    assert browser.evaluate("sessionStorage.length + localStorage.length") == 1
    reply_with(site, TEXT)
    say(browser, "hello")
    browser.has(".figures", "ended here")
    assert API_KEY not in browser.evaluate("document.documentElement.outerHTML")
    browser.evaluate("sessionStorage.clear()")


@pytest.mark.parametrize("part", range(10))
def test_what_a_model_writes_never_runs(browser: Browser, site: Site, part: int) -> None:
    site.enter(browser)
    written = PAYLOADS[30 * part : 30 * (part + 1)]
    step_s, site.engine.step_s = site.engine.step_s, 0.0
    reply_with(site, "\n\n".join(written))
    browser.evaluate("document.getElementById('max-tokens').value = 4000")
    say(browser, "attack")
    browser.has(".figures", "ended here")
    assert browser.evaluate(STRANGE) == []
    each_alone = (
        "import('/parts/markdown.js').then(({ markdown }) => "
        f"{json.dumps(written)}.map((text) => document.querySelector('.answer .body')"
        ".append(...markdown(text))))"
    )
    browser.evaluate(each_alone)
    assert browser.evaluate(STRANGE) == []
    if part == 0:
        browser.click("#tab-complete")
        browser.click("#generate")
        browser.has("#completion .figures", "ended here")
        assert browser.text("#completion .said") == "\n\n".join(written)
        assert browser.evaluate("document.querySelectorAll('#completion .body *').length") == 3
    assert browser.evaluate("window.owned") is None
    assert browser.evaluate("document.title") == "tiny · whorl"
    assert all(url.startswith(site.base_url) for url in browser.requested())
    assert browser.complaints() == []  # nor did the policy of contents have to hold anything back
    assert not [e for e in browser.events if e.get("method") == "Page.javascriptDialogOpening"]
    site.engine.step_s = step_s


def test_a_drawing_becomes_the_image_of_its_codec(browser: Browser, drawing: Site) -> None:
    tokens = drawing.app.state.gateway.tokens
    dog = next(entry.id_start for entry in tokens.contract.codecs if entry.name == "label") + 1
    drawing.engine.reply = lambda request: [dog]
    drawing.enter(browser)
    assert browser.evaluate("document.getElementById('tab-chat').hidden")
    browser.click("#tab-complete")
    browser.focus("#parts .pad")
    for key in ("Delete", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", " "):
        browser.press(key)
    browser.press("Enter", CTRL)
    browser.has("#completion .choice .chosen", "dog")
    image = np.zeros((4, 4), np.float32)
    image[0, 0], image[0, 1], image[1, 0] = 1.0, 0.35, 0.35
    codec = tokens.codecs["image"]
    value = np.round(image * 255) / 255 * codec.white
    first = next(entry.id_start for entry in tokens.contract.codecs if entry.name == "image")
    ids = tuple(first + number for number in codec.encode(value))
    asked = drawing.engine.submitted[-1]
    answer_id = tokens.contract.special["<|answer|>"]
    assert asked.prompt_ids == (*tokens.contract.start_ids, *ids, answer_id)
    assert asked.max_tokens == 1 and asked.allowed_ids == (dog - 1, dog)
    assert browser.complaints() == []

    browser.evaluate("document.getElementById('part-kind').value = 'token ids'")
    browser.click("#part-add")
    for _ in range(2):
        browser.click("#parts li:first-child .quiet")
    browser.focus("#parts textarea")
    browser.type("1, 20 21")
    browser.click("#generate")
    browser.wait_for("document.querySelectorAll('.choice').length === 1")
    browser.wait_for("document.querySelector('.figures').textContent.includes('token')")
    assert drawing.engine.submitted[-1].prompt_ids == (1, 20, 21)


def test_a_model_that_does_not_chat_goes_on_from_texts(browser: Browser, tmp_path: Path) -> None:
    rules = OWN_RULES.model_copy(update={"chat_template": None})
    tokens = Tokens.build(dict(tiny_tokens().codecs), 512, rules)
    with real_site(tokens, tmp_path) as silent:
        silent.enter(browser)
        assert browser.evaluate("document.getElementById('tab-chat').hidden")
        browser.click("#tab-compare")
        assert browser.evaluate("document.getElementById('compare-as').value") == "complete"
        browser.click("#tab-complete")
        browser.click("#generate")
        browser.has("#completion .figures", "limit of tokens")
