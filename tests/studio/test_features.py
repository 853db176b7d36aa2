"""In a real browser, against the scripted server: what a fake engine cannot show."""

from __future__ import annotations

import ast
import io
import json
import shlex
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site
from tests.studio.scripted import MODELS, PERSON


@pytest.fixture(autouse=True)
def _anew(request: pytest.FixtureRequest) -> None:
    if "scripted" in request.fixturenames:
        state = request.getfixturevalue("scripted").app.state
        state.bodies.clear()
        state.refuse = {}


def say(browser: Browser, text: str) -> None:
    browser.focus("#chat-input")
    browser.type(text)
    browser.press("Enter")


def test_probabilities_are_shown_by_pointer_and_by_keys(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    browser.click("#logprobs")
    say(browser, "tokens")
    browser.has(".tokens .token")
    asked = scripted.app.state.bodies[-1]
    assert asked["logprobs"] is True and asked["top_logprobs"] == 5
    browser.has(".figures", "ended here")  # what is still written scrolls, and scrolling hides it
    browser.evaluate("scrollTo(0, 0)")
    browser.wait_for("scrollY === 0")
    browser.evaluate("requestAnimationFrame(() => requestAnimationFrame(() => { still = true }))")
    browser.wait_for("window.still === true")
    browser.point(".token:nth-child(1)")
    browser.wait_for("!document.getElementById('token-tip').hidden")
    (share,) = (0.05, 0.2, 0.45, 0.7, 0.97)[ord("A") % 5 : ord("A") % 5 + 1]
    assert f"{share * 100:.1f}%" in browser.text("#token-tip") or (
        f"{share * 100:.0f}%" in browser.text("#token-tip")
    )
    assert "␣shell2.0%" in browser.text("#token-tip .bars")
    browser.focus(".token:nth-child(1)")
    for _ in range(3):
        browser.press("ArrowRight")
    assert browser.evaluate("document.activeElement === document.querySelectorAll('.token')[3]")
    assert browser.evaluate("document.activeElement.getAttribute('aria-describedby')")
    browser.click(".actions button")  # back to Markdown
    browser.has(".answer .body strong", "whorl")


def test_structured_output_is_checked_against_its_schema(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    browser.click("#structured")
    say(browser, "who?")
    browser.has(".judged.good")
    sent = scripted.app.state.bodies[-1]["response_format"]
    assert sent["type"] == "json_schema" and sent["json_schema"]["schema"]["required"] == [
        "name",
        "age",
    ]
    assert json.loads(browser.text(".json code")) == PERSON
    browser.evaluate(
        "document.getElementById('schema').value = JSON.stringify({type: 'object', "
        "properties: {age: {type: 'string'}}, required: ['born'], additionalProperties: false})"
    )
    browser.click("#chat-new")
    say(browser, "who?")
    browser.has(".judged.bad")
    told = browser.text(".judged.bad")
    assert "born is missing" in told and "age" in told and "name is not foreseen" in told
    browser.focus("#schema")
    browser.evaluate("document.getElementById('schema').value = '{\"a\": 1,\\n oops}'")
    browser.type(" ")
    browser.has("#schema-note", "line 2")
    say(browser, "who?")
    browser.has("#error", "not JSON")


def test_a_tool_is_called_and_a_person_says_what_it_returned(
    browser: Browser, scripted: Site
) -> None:
    scripted.enter(browser)
    browser.click("#with-tools")
    say(browser, "weather?")
    browser.has(".results textarea")
    assert json.loads(browser.text(".call pre")) == {"city": "Porto"}
    browser.wait_for("document.activeElement.closest('.results') !== null")
    browser.type("rain")
    browser.click(".results .main")
    browser.has(".answer .body", "It said: rain.")
    first, second = scripted.app.state.bodies
    assert first["tools"][0]["function"]["name"] == "get_weather"
    call, result = second["messages"][1:]
    assert call["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": '{"city": "Porto"}',
    }
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


@pytest.mark.parametrize(
    ("box", "field", "name"),
    [
        ("structured", "response_format", "structured output"),
        ("logprobs", "logprobs", "the probabilities"),
        ("with-tools", "tools", "tools"),
    ],
)
def test_what_a_server_cannot_is_said_and_left_out(
    browser: Browser, scripted: Site, box: str, field: str, name: str
) -> None:
    scripted.app.state.refuse = {field: f"{field}: this engine cannot"}
    scripted.enter(browser)
    browser.click(f"#{box}")
    say(browser, "hello")
    browser.has(".failed", "this engine cannot")
    assert browser.text(".failed .row button").startswith(f"Ask again without {name}")
    browser.click(".failed .row button")
    browser.has(".figures", "ended here")
    assert field in scripted.app.state.bodies[0] and field not in scripted.app.state.bodies[1]
    assert not browser.evaluate(f"document.getElementById('{box}').checked")


def test_what_the_card_denies_is_not_offered(browser: Browser, scripted: Site) -> None:
    state = scripted.app.state
    unable = {"engine_unable": ["grammar", "logprobs"], "tool_calls": None, "context_length": 64}
    before, state.models = state.models, [{**MODELS[0], **unable}]
    scripted.enter(browser)
    state.models = before
    for box in ("logprobs", "structured", "with-tools"):
        assert browser.evaluate(f"document.getElementById('{box}').disabled")
        assert browser.text(f"#{box}-why").startswith("This ")
    assert browser.evaluate("document.getElementById('max-tokens').value") == "32"
    say(browser, "hello")
    browser.has(".figures", "ended here")
    browser.click(".actions button:last-child")  # again
    browser.wait_for("document.querySelector('.answer[aria-busy=false]') !== null")
    first, second = state.bodies
    assert first["messages"] == second["messages"] and second["seed"] == first["seed"] + 1


def test_two_answers_side_by_side_and_the_better_one(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    browser.click("#tab-compare")
    browser.focus("#compare-input")
    browser.type("What is a whorl?")
    browser.press("Enter", CTRL)
    browser.wait_for("!document.getElementById('verdict').hidden")
    asked = {body["model"]: body for body in scripted.app.state.bodies}
    assert asked.keys() == {model["id"] for model in MODELS}
    browser.click("#better-right")
    browser.wait_for("document.getElementById('verdict').hidden")
    kept = scripted.app.state.bodies[-1]
    assert (kept["model"], kept["rating"]) == ("nautilus", "up") and kept["over"]
    browser.evaluate("document.querySelectorAll('.side select')[1].value = 'snail'")
    browser.evaluate("document.querySelectorAll('.side input')[4].value = '0'")  # its temperature
    browser.evaluate("document.getElementById('compare-as').value = 'complete'")
    browser.click("#compare-send")
    browser.wait_for("!document.getElementById('verdict').hidden")
    left, right = scripted.app.state.bodies[-2:]
    assert left["model"] == right["model"] == "snail" and left["prompt"] == "What is a whorl?"
    assert {left["temperature"], right["temperature"]} == {0.7, 0}


def test_the_card_says_what_compression_cost(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    browser.click("#tab-card")
    card = browser.text("#card")
    for told in (
        "1.512",
        "1.400 to 1.600",
        "hf f32",
        "+0.80%",
        "within 180 ms",
        "cd" * 16,
        "2,048",
    ):
        assert told in card
    browser.has("#load", "3 running · 1 waiting · 412 tokens/s")


def test_the_request_as_curl_and_as_python(browser: Browser, scripted: Site) -> None:
    scripted.enter(browser)
    browser.click("#structured")
    said = 'it\'s "quoted" \\ $HOME `x` 漢🎉'
    say(browser, said)
    browser.has(".judged")
    body = {k: v for k, v in scripted.app.state.bodies[-1].items() if not k.startswith("stream")}
    browser.click("#chat-code")
    words = shlex.split(browser.text("#code").replace("\\\n", " "))
    assert words[1] == f"{scripted.base_url}/v1/chat/completions"
    assert json.loads(words[words.index("-d") + 1]) == body
    browser.click("#code-python")
    tree = ast.parse(browser.text("#code"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (made,) = [call for call in calls if ast.unparse(call.func).endswith("completions.create")]
    given = {each.arg: ast.literal_eval(each.value) for each in made.keywords}
    assert given == body
    assert "WHORL_API_KEY" in browser.text("#code")
    browser.press("Escape")
    browser.wait_for("!document.getElementById('code-dialog').open")


# Of nodes: their names and texts, as HTML is written; without the language of a block of code.
SHAPE = """(nodes) => {
  const inner = (node) => [...node.childNodes].map(shape).join("");
  const shape = (node) => {
    if (node.nodeType === 3) return node.data;
    const name = node.localName;
    return node.className === "language" ? "" : `<${name}>${inner(node)}</${name}>`;
  };
  return nodes.map(shape).join("");
}"""
ORDINARY = (
    "# Title\n\nA paragraph with **strong**, *emphasis*, `code` and more.\nSecond line.",
    "1. one\n2. two\n   - inner\n   - more\n3. three",
    "- a\n- b\n\n- c",
    "```python\nx = '<b>'\n\ny = 1\n```\nafter",
    "> quoted\n> more\n\nplain",
    "5. five\n6. six",
    "a_b_c and 2 * 3 stay; `__init__` and `` `x` ``, *a*, **b**.",
    "---\n\ntext\n\n***",
    "# C#\n\n# F# ##\n\n# a #b\n\n# two  words #",
    "~~~\nunclosed code\n# no title",
    "`` a ` b `` and *one* **two** three",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_markdown_is_read_as_others_read_it(browser: Browser, scripted: Site, text: str) -> None:
    """Beside markdown-it: the same words in the same blocks; headings stand two levels lower."""
    if browser.evaluate("location.origin") != scripted.base_url:
        scripted.enter(browser)
    shown = browser.evaluate(
        f"import('/parts/markdown.js').then(({{ markdown }}) => ({SHAPE})"
        f"(markdown({json.dumps(text)})))"
    )
    assert _bare(shown) == _bare(_reference(text))


def test_names_of_programs_stay_as_they_are(browser: Browser, scripted: Site) -> None:
    if browser.evaluate("location.origin") != scripted.base_url:
        scripted.enter(browser)
    text = "2*3*4, __init__, snake_case_name, **kwargs and *args"
    shown = browser.evaluate(
        f"import('/parts/markdown.js').then((m) => m.markdown({json.dumps(text)})[0].innerHTML)"
    )
    assert shown == text


def _reference(text: str) -> str:
    """markdown-it's tokens in the same notation."""
    lines: list[str] = []

    def walk(tokens: list[Any]) -> None:
        for token in tokens:
            if token.children:
                walk(token.children)
            elif token.type == "fence":
                lines.append(f"<pre><code>{token.content.rstrip(chr(10))}</code></pre>")
            elif token.type == "code_inline":
                lines.append(f"<code>{token.content}</code>")
            elif token.type == "softbreak":
                lines.append("\n")
            elif token.tag and token.nesting:
                tag = "h3" if token.tag == "h1" else token.tag
                lines.append(f"</{tag}>" if token.nesting < 0 else f"<{tag}>")
            elif token.tag:
                lines.append(f"<{token.tag}></{token.tag}>")
            else:
                lines.append(token.content)

    walk(MarkdownIt("commonmark").parse(text))
    return "".join(lines)


def _bare(text: str) -> str:
    """Without the paragraphs inside items, which are left out there."""
    return text.replace("<li><p>", "<li>").replace("</p></li>", "</li>").replace("</p><ul>", "<ul>")


CASES: list[tuple[Any, Any]] = [
    ({"type": "integer"}, 1),
    ({"type": "integer"}, 1.5),
    ({"type": ["string", "null"]}, None),
    ({"type": "number", "minimum": 1, "exclusiveMaximum": 2}, 2),
    ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "aaa"),
    ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "aaaa"),
    ({"type": "string", "minLength": 2}, "🎉"),
    ({"enum": [1, "a", None]}, "a"),
    ({"enum": [1, "a", None]}, 2),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"items": {"type": "integer"}, "minItems": 2}, [1, "a"]),
    ({"items": {"type": "integer"}, "maxItems": 2}, [1, 2]),
    ({"required": ["a"], "properties": {"a": {"type": "boolean"}}}, {"a": True, "b": 1}),
    ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}),
    ({"additionalProperties": {"type": "string"}}, {"b": 1}),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, 3),
    ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, 7),
    ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, 7),
    (
        {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}}, "$ref": "#/$defs/t"},
        [[], [1]],
    ),
    ({"required": ["constructor"]}, {}),
    (True, 1),
    (False, 1),
]


@pytest.mark.parametrize(("schema", "value"), CASES)
def test_schemas_are_read_as_others_read_them(
    browser: Browser, scripted: Site, schema: Any, value: Any
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    if browser.evaluate("location.origin") != scripted.base_url:
        scripted.enter(browser)
    faults = browser.evaluate(
        "import('/parts/schema.js').then(({ faultsOf }) => "
        f"faultsOf({json.dumps(value)}, {json.dumps(schema)}))"
    )
    assert (faults == []) == jsonschema.Draft202012Validator(schema).is_valid(value), faults


def test_drawn_pixels_are_a_png_that_others_read(browser: Browser, scripted: Site) -> None:
    if browser.evaluate("location.origin") != scripted.base_url:
        scripted.enter(browser)
    levels = np.random.default_rng(1).integers(0, 256, (5, 7)).astype(np.uint8)
    data = browser.evaluate(
        "import('/parts/png.js').then(({ greyPng }) => "
        f"greyPng(Uint8Array.from({levels.ravel().tolist()}), 7, 5)).then((png) => [...png])"
    )
    with Image.open(io.BytesIO(bytes(data))) as image:
        assert image.mode == "L" and image.size == (7, 5)
        assert np.array_equal(np.asarray(image), levels)
