"""Chat templates: what transformers makes of them, and what they may not do."""

from __future__ import annotations

import time
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.codecs.template import BEGIN, END, has_generation, render
from whorl.codecs.text import CHAT_TEMPLATE, NAMES
from whorl.core.errors import DataError, RecordError
from whorl.core.ports import Document, Part
from whorl.testing.corpus import tiny_tokens

USER = {"role": "user", "content": "What grows?\n"}
ANSWER = {"role": "assistant", "content": "A shell <b>grows</b> & turns."}
CHAT = [{"role": "system", "content": "Hi"}, USER, ANSWER, USER, {**ANSWER, "content": "It does."}]

# Everything transformers' rules offer: trimming, loop controls, namespaces, tojson, macros, dates.
TEMPLATES = {
    "own": CHAT_TEMPLATE,
    "blocks": """
  {% for m in messages %}
    {% if m.role == 'system' %}{% continue %}{% endif %}
    {%- if loop.index0 > 3 %}{% break %}{% endif %}
    [{{ loop.index }}/{{ loop.length }} {{ m['role'] | upper }}{{ ' last' if loop.last }}]
    {{ m.content | trim }}{{ '\\n' }}
  {% endfor %}
""",
    "tools": """{{ tools | tojson(indent=2) }}
{% for t in tools %}{{ t ~ 1 ~ t.a | tojson }}{% endfor %}""",
    "namespace": """{% set ns = namespace(n=0, seen=[]) %}{% for m in messages[::-1] %}
{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n * 2 + 2 ** 3 }}{{ 'ab' * 3 }}""",
    "macro": """{% macro say(m, mark='>') %}{{ mark }}{{ m.content.split('\\n')[0].strip() }}
{% endmacro %}{% for m in messages %}{{ say(m) }}{{ say(m, mark=bos_token) }}{% endfor %}""",
    "dict": """{% set d = dict(a=1, b='é') %}
{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{{ d | tojson }}""",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("ask", [False, True])
def test_transformers_renders_the_same(name: str, ask: bool) -> None:
    values: dict[str, Any] = {**NAMES, "tools": [{"a": "<é'\">"}, {"a": [1, None]}]}
    values["add_generation_prompt"] = ask
    (theirs,), _ = render_jinja_template([CHAT], chat_template=TEMPLATES[name], **values)
    ours = render(TEMPLATES[name], {"messages": CHAT, "documents": None, **values})
    assert ours.replace(BEGIN, "").replace(END, "") == theirs
    assert has_generation(TEMPLATES[name]) == (name == "own")


def test_dates_are_told_when_they_are_given() -> None:
    source = (
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}then{% endif %}"
    )
    assert render(source, {}, datetime(2031, 5, 6)) == "06 May 2031"
    assert render(source, {}) == "then"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}"
        "{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}"
        "{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}"
        "{% set n.s = n.s | replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}"
        "{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '{:99999999999d}'.format(1) }}",
        "{{ '{:99d}'.format(1) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(_x=1) %}{% set ns._y = 1 %}",
        "{{ raise_exception('no') }}",
        "{{ missing.thing }}",
        "{% include 'x' %}",
        "{{ [1, 2] | random }}",
        "{{ 1 | round(999999999, 'ceil') }}",
        "{{ (123).to_bytes(99999999) }}",
        "{% set n = namespace(i=9) %}{% for i in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}",
        "{% for a in range(9) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}"
        "{% endfor %}{{ n.a | tojson }}",
        "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}"
        "{% endfor %}{{ n.a }}",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    ],
)
def test_what_a_template_may_not_do(source: str) -> None:
    """Each ends soon, with the reason, and never with a value."""
    with pytest.raises((DataError, RecordError), match="chat template"):
        assert render(source, {"messages": CHAT}) is None


HELD = "{% set n = namespace(all=[]) %}{% for i in range(99999) %}{% set n.all = n.all + [T] %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ('a' * 30000).replace('a', 'b' * 30000) }}",
        "{{ ('a' * 30000) | replace('a', 'b' * 30000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ 'REPEATED' | replace('', 'b' * 1000000) }}",
        "{{ range(99999) | join('b' * 100000) }}",
        "{{ ('b' * 100000).join(('a,' * 50000).split(',')) }}",
        "{{ ('a\n' * 50000) | indent(99999) }}",
        "{{ ('%s' * 50000) % (['a' * 100000] * 50000) }}",
        HELD.replace("T", "'a' * 900000") + "{% endfor %}",
        HELD.replace("T", "('a' * 900000)[1:]") + "{% endfor %}",
        "{% set t = 'a' * 900000 %}{% for i in range(99999) %}{{ (t | list | sort)[0] }}"
        "{% endfor %}",
        "{% set t = 'a' * 900000 %}{% for i in range(99999) %}{% if t in t + 'b' %}{% endif %}"
        "{% endfor %}",
        "{% set t = 'a' * 900000 %}{{ t.strip(t) }}",
        "{{ [[[[[[1]]]]]] | tojson(separators=('a' * 900000, 'b' * 900000)) }}",
    ],
)
def test_work_and_memory_are_paid_for_before_they_are_used(source: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(DataError, match="chat template"):
            render(source.replace("REPEATED", "a" * 500_000), {"messages": CHAT})
        assert tracemalloc.get_traced_memory()[1] < 300e6, "4 bytes of each character at most"
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 60, "seconds, not hours"


def test_a_long_chat_is_rendered_whole() -> None:
    """The budget grows with the chat: many messages, or long ones."""
    many = [{"role": "user", "content": f"{n} " * 20} for n in range(3_000)]
    source = "{% for m in messages %}{% if loop.index <= messages|length %}{{ m.content | trim }}\n"
    source += "{% endif %}{% endfor %}"
    chats: list[list[dict[str, Any]]] = [many, [{"role": "user", "content": "word " * 2_000_000}]]
    for chat in chats:
        (theirs,), _ = render_jinja_template([chat], chat_template=source)
        assert render(source, {"messages": chat}) == theirs


def test_memory_that_runs_out_is_an_error_of_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(value: Any) -> str:
        raise MemoryError

    monkeypatch.setattr("whorl.codecs.template._joined", full)
    with pytest.raises(DataError, match="chat template"):
        render("{{ [1] | tojson }}", {})


@pytest.mark.parametrize("source", ["{% for %}", "{{ 1", "{% generation %}", "x" * (2**20 + 1)])
def test_what_is_no_template(source: str) -> None:
    with pytest.raises(RecordError, match="chat template"):
        has_generation(source)


def with_template(template: str) -> Tokens:
    tokens = tiny_tokens(512)
    rules = OWN_RULES.model_copy(update={"chat_template": template})
    return Tokens.build(tokens.codecs, 512, rules)


ROLES = """{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}
{% else %}{{ m.content }}<|end|>{% endif %}
{% endfor %}"""


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, ROLES])
def test_marked_turns_are_those_of_transformers(template: str, tmp_path: Path) -> None:
    tokens = with_template(template)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokens.codecs["text"].files()["tokenizer.json"])
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), **NAMES)
    expected = theirs.apply_chat_template(
        CHAT, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = tokens.encode_chat({"messages": CHAT})
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == [bool(m) for m in expected["assistant_masks"]] and mask.any()


def test_turns_without_marks_are_found_by_comparing() -> None:
    """The same template with and without its marks trains the same ids."""
    bare = ROLES.replace("{% generation %}", "").replace("{% endgeneration %}\n", "")
    bare += "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    marked, found = with_template(ROLES), with_template(bare)
    ids, mask = marked.encode_chat({"messages": CHAT})
    also_ids, also_mask = found.encode_chat({"messages": CHAT})
    assert ids.tolist() == also_ids.tolist() and mask.tolist() == also_mask.tolist()
    changed = "{{ messages | length }}" + bare
    with pytest.raises(DataError, match="does not show where the assistant's turns are"):
        with_template(changed).encode_chat({"messages": CHAT})


@pytest.mark.parametrize(
    ("chat", "match"),
    [
        ("Hi", "not a chat"),
        ({"messages": "Hi"}, "not a chat"),
        ({"messages": [{"content": "Hi"}]}, "not a chat"),
        ({"messages": [], "template": "x"}, "unknown keys"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "there is no role robot"),
        ({"messages": [{"role": "user", "content": None}]}, "fails on|refuses"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
    ],
)
def test_what_is_no_chat_is_refused(chat: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        tiny_tokens(512).encode_chat(chat)


def test_a_chat_is_a_whole_document() -> None:
    tokens = tiny_tokens(512)
    part = Part("chat", {"messages": CHAT})
    ids, mask = tokens.encode_document(Document("d", (part,)))
    assert ids[0] == 0 and tokens.decode(ids, False).count("<|bos|>") == 1 and any(mask)
    with pytest.raises(DataError, match="other parts"):
        tokens.encode_document(Document("d", (part, Part("text", "x"))))
    none = OWN_RULES.model_copy(update={"chat_template": None})
    with pytest.raises(DataError, match="no chat template"):
        Tokens.build(tokens.codecs, 512, none).encode_chat({"messages": CHAT})
