"""`whorl serve NAME --beside OTHER` as a person sees it: two answers in two columns, at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site, real_site
from whorl.codecs.contract import Tokens
from whorl.core.ports import GenerateRequest
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.served import Served
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine

QUESTION = "What is a whorl?"
BUSY = "document.querySelectorAll('.side .answer[aria-busy=true]').length"
ANSWERS = "[...document.querySelectorAll('.side .answer .body')].map((each) => each.textContent)"


class Saying:
    """An answer of one word over and over, long enough to be watched."""

    def __init__(self, tokens: Tokens, word: str) -> None:
        self.ids = tokens.encode_prompt(f" {word}")[len(tokens.contract.start_ids) :]

    def __call__(self, request: GenerateRequest) -> Sequence[int]:
        return [self.ids[n % len(self.ids)] for n in range(120)]


@pytest.fixture(scope="module")
def second() -> Iterator[Served]:
    """The version before, of other tokens."""
    tokens = tiny_tokens(500)
    digest = tokens.contract.digest
    engine = FakeEngine(digest, Saying(tokens, "older"), step_s=0.01)
    card = ModelCard(
        name="tiny@1", contract_digest=digest, context_tokens=8192, variant="hf f32", version=1
    )
    yield Served(engine, tokens, card, engine.close)
    engine.close()


@pytest.fixture(scope="module")
def two(second: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tokens = tiny_tokens()
    with real_site(tokens, tmp_path_factory.mktemp("home"), 0.01, beside=(second,)) as found:
        found.engine.reply = Saying(tokens, "newer")
        yield found


def ask(browser: Browser) -> None:
    browser.click("#tab-compare")
    browser.focus("#compare-input")
    browser.type(QUESTION)
    browser.press("Enter", CTRL)


def test_both_answer_the_same_question_at_once(browser: Browser, two: Site, second: Served) -> None:
    two.enter(browser)
    ask(browser)
    browser.wait_for(f"{BUSY} === 2 && {ANSWERS}.every((each) => each.length > 10)")
    browser.wait_for("!document.getElementById('verdict').hidden")
    newer, older = browser.evaluate(ANSWERS)
    assert set(newer.split()) == {"newer"} and set(older.split()) == {"older"}
    assert browser.text(".side .who") == "tiny · fake\ntiny@1 · fake hf f32"
    first, other = two.engine.submitted[-1], second.engine.submitted[-1]  # type: ignore[attr-defined]
    steered = ("temperature", "top_p", "seed", "max_tokens")
    assert [getattr(first, name) for name in steered] == [getattr(other, name) for name in steered]
    tokens = two.app.state.gateway.tokens
    asked = tokens.decode(first.prompt_ids), second.tokens.decode(other.prompt_ids)
    assert asked[0] == asked[1] and QUESTION in asked[0]
    assert not browser.complaints()


def test_the_better_one_is_kept_with_its_version(browser: Browser, two: Site) -> None:
    two.enter(browser)
    ask(browser)
    browser.wait_for("!document.getElementById('verdict').hidden")
    assert browser.text("#verdict button") == "The first\nThe second\nNeither"
    browser.click("#better-right")
    browser.wait_for("document.getElementById('verdict').hidden")
    assert two.home is not None
    lines = Path(two.home / ".serving" / "feedback.jsonl").read_text().splitlines()
    kept = json.loads(lines[-1])
    assert (kept["model"], kept["version"], kept["rating"]) == ("tiny@1", 1, "up")
    assert kept["over"] and kept["over"] != kept["id"]


def test_either_can_be_talked_to_alone(browser: Browser, two: Site, second: Served) -> None:
    two.enter(browser)
    assert browser.text("#model-choice option") == "tiny\ntiny@1"
    browser.choose("#model-choice", "tiny@1")
    browser.has("#about", "hf f32")
    browser.click("#tab-chat")
    before = len(second.engine.submitted)  # type: ignore[attr-defined]
    browser.focus("#chat-input")
    browser.type("hello")
    browser.press("Enter")
    browser.has(".answer .body", "older")
    assert len(second.engine.submitted) == before + 1  # type: ignore[attr-defined]


def test_the_columns_are_one_below_the_other_on_a_phone(browser: Browser, two: Site) -> None:
    two.enter(browser)
    ask(browser)
    browser.wait_for("!document.getElementById('verdict').hidden")
    tops = "[...document.querySelectorAll('.side')].map((each) => each.getBoundingClientRect().top)"
    left, right = browser.evaluate(tops)
    assert left == right
    browser.look(390, 844)
    above, below = browser.evaluate(tops)
    assert above < below
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    edge = "document.getElementById('compare-send').getBoundingClientRect().right"
    assert browser.evaluate(edge) == pytest.approx(
        browser.evaluate("document.getElementById('compare-input').getBoundingClientRect().right"),
        abs=1,
    )
