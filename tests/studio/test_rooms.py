"""The rooms of a model of many fields, each used by hand: it is asked as its field taught."""

from __future__ import annotations

import pytest

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site
from tests.studio.many import FACTS, FILMS
from tests.studio.test_looks import CONTRASTS
from whorl.codecs.contract import Tokens
from whorl.core.ports import Part
from whorl.fields.tags import question_of as tag_question
from whorl.fields.translation import question_of as translation_question

ROOMS = (
    "classify",
    "recommend",
    "graph",
    "rows",
    "labels",
    "tags",
    "translate",
    "play",
    "chess",
)
RANKED = "[...document.querySelectorAll('#%s-result .ranked .name')].map((each) => each.innerText)"
HOSTILE = "<img src=x onerror=alert(1)>"


def tokens_of(site: Site) -> Tokens:
    tokens: Tokens = site.app.state.gateway.tokens
    return tokens


def prompt_of(site: Site, *parts: tuple[str, object]) -> tuple[int, ...]:
    tokens = tokens_of(site)
    ids = tokens.encode_parts([Part(codec, value) for codec, value in parts])
    return (*tokens.contract.start_ids, *ids)


@pytest.fixture
def room(browser: Browser, many: Site, request: pytest.FixtureRequest) -> Browser:
    many.enter(browser)
    many.rules.asked.clear()
    browser.click(f"#tab-{request.param}")
    browser.wait_for(f"!document.getElementById('panel-{request.param}').hidden")
    return browser


def answered(browser: Browser, name: str) -> None:
    """What was asked last has its answer."""
    browser.wait_for(f"document.getElementById('{name}-stop').hidden")


def in_room(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("room", [name], indirect=True)


def test_a_model_gets_the_rooms_of_its_tasks_and_no_other(browser: Browser, many: Site) -> None:
    many.enter(browser)
    shown = "[...document.querySelectorAll('nav button:not([hidden])')].map(({ id }) => id)"
    assert browser.evaluate(shown) == [f"tab-{n}" for n in (*ROOMS, "complete", "compare", "card")]
    assert browser.evaluate("document.body.dataset.tab") == "classify"
    browser.focus("#tab-classify")
    for name in ("recommend", "graph"):
        browser.press("ArrowRight")
        assert browser.evaluate("document.activeElement.id") == f"tab-{name}"


def test_a_model_that_only_chats_has_no_rooms(browser: Browser, site: Site) -> None:
    site.enter(browser)
    shown = "[...document.querySelectorAll('nav button:not([hidden])')].map(({ id }) => id)"
    assert browser.evaluate(shown) == [f"tab-{n}" for n in ("chat", "complete", "compare", "card")]


# ------------------------------------------------------------------ recommendation


def pick(browser: Browser, text: str) -> None:
    browser.focus("#recommend-input input[role=combobox]")
    browser.type(text)
    browser.has("#recommend-input [role=option]")
    browser.press("Enter")


@in_room("recommend")
def test_recommendations_change_as_one_picks(room: Browser, many: Site) -> None:
    room.has("#recommend-result h2", "What most begin with")
    assert room.evaluate(RANKED % "recommend")[0] == next(iter(FILMS))
    room.wait_for("document.querySelector('#recommend-input input').value === ''")
    pick(room, "psyc")
    room.has("#recommend-result h2", "What may come next")
    first = room.evaluate(RANKED % "recommend")
    assert {*FILMS[first[0]].split()} & {"fear", "old"} and "Psycho (1960)" not in first
    assert many.rules.asked[-1] == prompt_of(many, ("item", "Psycho (1960)"))
    room.click("#recommend-result .ranked .name")  # the best of them is had as well
    room.wait_for("document.querySelectorAll('.chips li').length === 2")
    answered(room, "recommend")
    room.has("#recommend-result .moved", "new")  # one of those that there was no place for
    assert many.rules.asked[-1] == prompt_of(many, ("item", "Psycho (1960)"), ("item", first[0]))
    again = room.evaluate(RANKED % "recommend")
    assert again != first and first[0] not in again
    for title in ("airplane", "toy", "lion", "annie"):
        pick(room, title)
    room.wait_for("document.querySelectorAll('.chips li').length === 6")
    answered(room, "recommend")
    late = ["Airplane! (1980)", "Toy Story (1995)", "The Lion King (1994)", "Annie Hall (1977)"]
    assert many.rules.asked[-1] == prompt_of(many, *(("item", film) for film in late))
    room.click(".chips li:first-child button")
    room.wait_for("document.querySelectorAll('.chips li').length === 5")
    room.click("#recommend-code")
    room.click("#code-python")
    assert 'client.post("/rank"' in room.text("#code")
    room.click("#code-close")
    assert room.complaints() == []


# ------------------------------------------------------------------ knowledge graph


@in_room("graph")
def test_a_graph_answers_with_scores_and_one_walks_on(room: Browser, many: Site) -> None:
    room.has("#graph-result h2", "virus")  # the first held-out question
    asked = prompt_of(
        many,
        ("entity", "virus"),
        ("relation", "causes"),
        ("entity", "cold"),
        ("relation", "causes"),
    )
    assert many.rules.asked[-1] == asked
    answers = room.evaluate(RANKED % "graph")
    assert answers[0] == "influenza" and "cold" not in answers  # that one is known
    room.click("#graph-result .ranked .name")
    room.has("#graph-result h2", "influenza")
    room.choose("#graph-input select", "has_symptom")
    room.has("#graph-result h2", "has symptom")
    answered(room, "graph")
    assert many.rules.asked[-1] == prompt_of(
        many, ("entity", "influenza"), ("relation", "has_symptom")
    )
    right = {tail for head, link, tail in FACTS if (head, link) == ("influenza", "has_symptom")}
    assert {*room.evaluate(RANKED % "graph")[:2]} == right
    room.choose("#graph-input select", "^prevents")
    room.has("#graph-result h2", "← prevents ←")
    answered(room, "graph")
    assert room.evaluate(RANKED % "graph")[0] == "vaccine"
    assert room.complaints() == []


# ------------------------------------------------------------------ tables


@in_room("rows")
def test_a_row_is_edited_and_told_what_moved_it(room: Browser, many: Site) -> None:
    room.has("#rows-result .chosen", "versicolor")
    room.has("#rows-result .note", "That is what it is.")
    moved = "[...document.querySelectorAll('.effects .name')].map((each) => each.innerText)"
    assert room.evaluate(moved)[0] in ("petal length = 4.2", "petal width = 1.5")
    assert not any("garden" in name for name in room.evaluate(moved))  # it says nothing
    row = {"sepal length": 5.9, "sepal width": 3.0, "petal length": 4.2, "petal width": 1.5}
    whole = {**row, "garden": "north"}
    answer = ("special", "<|answer|>")
    asked = [prompt_of(many, ("row", whole), answer)]
    asked += [prompt_of(many, ("row", {**whole, name: None}), answer) for name in whole]
    assert many.rules.asked[-6:] == asked  # one request: the row, then without each cell
    room.choose(".cell:nth-child(4) input", "1.9")
    room.has(".cell.against label", "petal width")  # that of another kind
    room.choose(".cell:nth-child(4) input", "1.5")
    room.choose(".cell:nth-child(3) input", "1.3")
    room.has("#rows-result .chosen", "setosa")
    room.has(".effects .other", "without it: versicolor")
    assert "That is what it is." not in room.text("#rows-result")
    room.choose(".cell:nth-child(3) input", "")
    room.wait_for("!document.querySelector('#rows-result').innerText.includes('petal length')")
    room.click(".examples button")
    room.has("#rows-result .note", "That is what it is.")
    assert room.complaints() == []


# ------------------------------------------------------------------ texts


@in_room("labels")
def test_a_text_is_labelled_as_it_is_written(room: Browser, many: Site) -> None:
    assert room.evaluate("document.getElementById('labels-go').disabled")
    room.focus("#labels-text")
    room.type("A player of music")
    room.has("#labels-result .chosen", "sound")
    answer = ("special", "<|answer|>")
    assert many.rules.asked[-1] == prompt_of(many, ("text", "A player of music"), answer)
    room.choose("#labels-text", HOSTILE + " chess")
    room.has("#labels-result .chosen", "games")
    room.choose("#labels-text", "")
    room.wait_for("!document.querySelector('#labels-result .chosen')")
    room.click("#labels-input .chip")
    room.has("#labels-result .note", "That is what it is.")
    assert room.complaints() == []


@in_room("tags")
def test_words_get_the_colours_of_their_tags(room: Browser, many: Site) -> None:
    text = "The quick fox jumps over the lazy dog.\nThe old man sees it!"
    room.choose("#tags-text", text)
    room.wait_for("document.querySelectorAll('.tagged .word').length === 15")
    found = "[...document.querySelectorAll('.tagged .word')].map((each) => each.innerText)"
    told = dict(word.split("\n") for word in room.evaluate(found))
    assert told["fox"] == told["dog"] == "NOUN" and told["jumps"] == "VERB"
    assert told["."] == "PUNCT" and told["lazy"] == "ADJ" and told["The"] == "DET"
    assert told["man"] == "NOUN"  # behind "old", which only its neighbours say
    spaced = text.replace(".", " .").replace("!", " !").splitlines()
    sentences = [line.split() for line in spaced]
    answer = ("special", "<|answer|>")
    assert many.rules.asked[-15:] == [
        prompt_of(many, ("text", tag_question(words, place, 3)), answer)
        for words in sentences
        for place in range(len(words))
    ]
    assert room.text(".tagged").replace("PUNCT", "").startswith("TheDET quick")
    room.focus(".tagged .word")
    room.press("ArrowRight")
    assert "quick" in room.evaluate("document.activeElement.innerText")
    room.has("#tags-result .choice .bars li", "ADJ")
    same = "document.querySelector('.tagged .word').className"
    assert room.evaluate(same) == room.evaluate(same.replace(".word'", ".word:nth-of-type(6)'"))
    room.choose("#tags-text", HOSTILE)
    room.has(".tagged", "onerror")
    assert room.evaluate("document.querySelectorAll('.tagged img').length") == 0
    assert room.complaints() == []


@in_room("translate")
def test_a_text_is_translated_both_ways(room: Browser, many: Site) -> None:
    assert room.text("#translate-from option") == "English\nGerman"
    room.choose("#translate-text", "the house is old.")
    room.has(".translation", "das Haus ist alt.")
    asked = many.engine.submitted[-1]
    question = translation_question("en", "de", "the house is old.")
    assert asked.prompt_ids == prompt_of(many, ("text", question), ("special", "<|answer|>"))
    assert asked.temperature == 0
    room.click("#translate-input .row button")  # turned round: the answer is asked
    room.has(".translation", "the house is old.")
    question = translation_question("de", "en", "das Haus ist alt.")
    asked = many.engine.submitted[-1]
    assert asked.prompt_ids == prompt_of(many, ("text", question), ("special", "<|answer|>"))
    room.click("#translate-input .chip")
    room.has("#translate-result .note", "In the data: das Haus ist alt.")
    assert room.complaints() == []


# ------------------------------------------------------------------ worlds


@in_room("play")
def test_a_world_is_watched_step_by_step(room: Browser, many: Site) -> None:
    room.choose("#play-seed", "0")
    room.press("Enter", CTRL)
    room.has("#play-result .said", "go to the red ball")
    room.choose("#play-result select", "fast")
    room.has("#play-result .said", "done: it went well")
    steps = room.evaluate("Number(document.getElementById('play-place').max)")
    assert steps == 5  # to (4, 2) from (1, 1): three ahead, a turn, and on to the ball
    assert room.evaluate("document.querySelector('canvas.scene').hidden") is False
    drawn = (
        "(() => { const canvas = document.querySelector('canvas.scene');"
        " const { width, height } = canvas;"
        " const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);"
        " return new Set(Array.from({ length: data.length / 4 }, (_, n) =>"
        " data.slice(4 * n, 4 * n + 3).join())).size; })()"
    )
    assert room.evaluate(drawn) > 5
    assert "red ball at 4, 2" in room.evaluate("document.querySelector('canvas.scene').ariaLabel")
    room.choose("#play-place", "0")
    room.has("#play-result .choice .chosen", "forward")
    room.click(".hands button")  # a person turns away; from there the model goes on
    room.has(".said", "step 1")
    assert room.text("#play-result .choice h2") == "What it will do is not asked yet"
    room.click("#play-pause")
    room.has("#play-result .said", "done: it went well")
    assert room.evaluate("Number(document.getElementById('play-place').max)") > 5
    assert room.complaints() == []


@in_room("play")
def test_a_road_is_drawn(room: Browser, many: Site) -> None:
    room.evaluate("document.getElementById('play-world').selectedIndex = 1")
    room.press("Enter", CTRL)
    room.has("#play-result .said", "12 m/s")
    assert "3 lanes" in room.evaluate("document.querySelector('canvas.scene').ariaLabel")
    room.click("#play-pause")
    room.click("[aria-label='One step on']")
    assert room.complaints() == []


@in_room("chess")
def test_a_board_is_played_on_by_pointer_and_keys(room: Browser, many: Site) -> None:
    room.has("#chess-result .said", "White to move")
    answered(room, "chess")
    assert room.evaluate("document.querySelectorAll('.board button').length") == 64
    square = "document.querySelector('[data-square=%s]')"
    assert room.evaluate(f"{square % 'e1'}.ariaLabel") == "e1, white king"
    room.click("[data-square=e7]")  # not a move that there is
    assert not room.evaluate("document.querySelector('.board [aria-selected=true]')")
    room.focus("[data-square=e2]")
    room.press("Enter")
    assert room.evaluate("document.querySelectorAll('[data-target=true]').length") == 1
    for key in ("ArrowUp", "ArrowUp", "Enter"):
        room.press(key)
    room.has("#chess-result .moves-list", "e2e4 e7e5")
    assert room.evaluate(f"{square % 'e5'}.ariaLabel") == "e5, black pawn"
    room.has("#chess-result .choice .chosen", "e7e5")
    room.click("#chess-result .row button")  # taken back
    room.wait_for("document.querySelector('.moves-list').innerText === ''")
    assert room.evaluate(f"{square % 'e2'}.ariaLabel") == "e2, white pawn"
    room.choose("#chess-side", "black")
    room.has("#chess-result .moves-list", "e2e4")
    assert room.evaluate("document.querySelector('.board button').dataset.square") == "h1"
    assert room.complaints() == []


# ------------------------------------------------------------------ how all of them look


def fill(browser: Browser, name: str) -> None:
    """Something is asked, and answered."""
    browser.click(f"#tab-{name}")
    if name == "classify":
        browser.focus("#classify-input .pad")
        browser.press(" ")
    elif name in ("labels", "tags", "translate"):
        browser.click(f"#{name}-input .chip")
    elif name == "play":
        browser.press("Enter", CTRL)
    browser.wait_for(f"document.querySelector('#{name}-result').innerText.trim() !== ''")


def test_rooms_can_be_read_in_light_and_dark_and_fit_a_phone(browser: Browser, many: Site) -> None:
    many.enter(browser)
    for name in ROOMS:
        browser.look(1280, 860)
        fill(browser, name)
        for scheme, width in (("light", 1280), ("dark", 1280), ("dark", 390), ("light", 320)):
            browser.look(width, 780, scheme)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, name
            assert browser.evaluate(CONTRASTS) == [], (name, scheme, width)
    assert browser.requested() <= {
        url for url in browser.requested() if url.startswith((many.base_url, "data:", "blob:"))
    }
    assert browser.complaints() == []


def test_what_a_model_says_is_never_html(browser: Browser, many: Site) -> None:
    many.enter(browser)
    browser.click("#tab-translate")
    reply, tokens = many.engine.reply, tokens_of(many)
    many.engine.reply = lambda request: tokens.encode_parts([Part("text", HOSTILE)])
    try:
        browser.choose("#translate-text", "anything")
        browser.has(".translation", HOSTILE)
    finally:
        many.engine.reply = reply
    assert browser.evaluate("document.querySelectorAll('main img').length") == 0
    assert browser.complaints() == []
