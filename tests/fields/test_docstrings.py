"""Questions about the standard library, answered by its own docstrings."""

from __future__ import annotations

from collections import Counter

from whorl.core.ports import Source
from whorl.fields.chat import FIELD
from whorl.fields.docstrings import split_of


def test_docstrings_are_asked_about_and_held_out_by_module() -> None:
    source = Source("stdlib-docstrings", "chat")
    items = {item.name: item for item in FIELD.items(source) if item.is_read}
    assert not [name for name in items if name.startswith(("_", "test/"))]
    found = {d.name: d for d in FIELD.read(source, items["textwrap.py"], Counter[str]().update)}
    (part,) = found["textwrap.dedent"].parts
    _, asked, answered = part.value["messages"]
    assert "`textwrap.dedent`" in asked["content"]
    assert answered["content"] == (
        "Remove any common leading whitespace from every line in `text`.\n\n`textwrap.dedent(text)`"
    )
    assert len({document.split for document in found.values()}) == 1
    names = [item.name.removesuffix(".py").replace("/", ".") for item in items.values()]
    held = {name.partition(".")[0] for name in names if split_of(name) == "heldout"}
    trained = {name.partition(".")[0] for name in names if split_of(name) == "train"}
    assert not held & trained and 0.04 < len(held) / len(held | trained) < 0.2
