"""Text and code fields: which files they read, and what counts as Python so far."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from whorl.core.errors import DataError
from whorl.core.ports import Document, Source
from whorl.core.reasons import kind_of
from whorl.fields.code import FIELD as CODE
from whorl.fields.code import is_python_so_far
from whorl.fields.text import FIELD as TEXT


def read_all(field: object, source: str) -> list[Document]:
    wanted = Source(source, "x")
    rejected: list[str] = []
    items = field.items(wanted)  # type: ignore[attr-defined]
    found = [d for item in items for d in field.read(wanted, item, rejected.append)]  # type: ignore[attr-defined]
    assert all(kind_of(reason) == "passed over" for reason in rejected)
    return found


def test_text_and_code_read_their_own_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "c.rst", "deep/d.txt", "e.py", "deep/f.c", ".hidden.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content of {name}")
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n')
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/g.py").write_text("theirs = 1")
    texts = {d.name: d.text for d in read_all(TEXT, str(tmp_path))}
    assert set(texts) == {"a.txt", "b.md", "c.rst", "deep/d.txt", "rows.jsonl@0"}
    assert texts["deep/d.txt"] == "content of deep/d.txt" and texts["rows.jsonl@0"] == "a row"
    assert {d.name for d in read_all(CODE, str(tmp_path))} == {"e.py", "deep/f.c", "rows.jsonl@0"}


def test_stdlib_is_that_of_this_python_without_installed_packages() -> None:
    items = CODE.items(Source("stdlib", "code"))
    items = [item for item in items if item.is_read]
    names = [item.name for item in items]
    assert {"ast.py", "json/decoder.py", "asyncio/tasks.py"} <= set(names)
    assert all(name.endswith(".py") for name in names)
    assert not any("site-packages" in name or "dist-packages" in name for name in names)
    item = items[names.index("ast.py")]
    (found,) = CODE.read(Source("stdlib", "code"), item, lambda reason: None)
    on_disk = (Path(sysconfig.get_path("stdlib")) / "ast.py").read_text("utf-8")
    assert found.text == on_disk and found.name == "ast.py"


def test_codecs_are_byte_level_bpe_of_the_asked_size() -> None:
    documents = [Document("d", ()), *read_all_of_json()]
    codecs = CODE.fit_codecs(documents[1:], {"vocab_size": 400, "seed": 0})
    codec = codecs["text"]
    assert list(codecs) == ["text"] and 256 < codec.num_ids <= 400
    text = documents[1].text or ""
    assert codec.decode(codec.encode(text)) == text


def read_all_of_json() -> list[Document]:
    return read_all(CODE, str(Path(sysconfig.get_path("stdlib")) / "json"))


def test_missing_sources_are_refused() -> None:
    for field in (TEXT, CODE):
        with pytest.raises(DataError, match="does not exist"):
            field.items(Source("no/such/folder", "x"))


def test_both_have_five_prompts() -> None:
    for field in (TEXT, CODE):
        assert len(set(field.task.prompts)) == 5
    assert TEXT.task.accepts("a", "b") is None and TEXT.task.checker == ""


PROMPT = "def f(path):\n"


@pytest.mark.parametrize(
    "completion",
    [
        "    return path\n",  # ends by itself
        "    x = path\n    return x",
        "    lines = []\n    for line in open(path):\n        lines.append(li",
        "    total = 1\n    if total:\n        x = (1,\n            2,\n            3",
        '    x = 1\n    """A docstring that\n    goes on and\n    on',
        "    x = 1\n\n\nclass A:\n    def g(self):\n",  # a header without its body
        "    try:\n        x = 1\n    except OSError:\n        pass\n    try:\n        y",
        "    return '\\d'  # a warning is no error\n",
    ],
)
def test_python_so_far(completion: str) -> None:
    assert is_python_so_far(PROMPT, completion)
    assert CODE.task.accepts(PROMPT, completion) is True


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "\n\n",
        "    retu",  # no whole line
        "    return path path\n    x = 1\n",
        "    x = 1\n  y = 2\n    z = 3\n",
        "    x = (1\n    def g(:\n        pass\n    y",
        "    x = 1\n    else:\n        y = 2\n    z",
        "    x = 1)\n    y = 2\n",
        "    x = 1\0\n    y = 2\n",
        "    " + "(" * 5000 + "\n    y = 1\n",
    ],
)
def test_wrong_python_is_wrong_wherever_it_ends(completion: str) -> None:
    assert not is_python_so_far(PROMPT, completion)


def test_a_prompt_that_ends_inside_a_line() -> None:
    assert is_python_so_far("x = [1, ", "2]\ny = ")
    assert not is_python_so_far("x = [1, ", "2\n")
    assert not is_python_so_far("import os\nx = [1]", "\n\n")


def test_every_beginning_of_real_code_is_accepted_and_broken_code_is_not() -> None:
    text = (Path(sysconfig.get_path("stdlib")) / "textwrap.py").read_text("utf-8")
    prompt_end = text.index("\n", 600) + 1
    prompt, rest = text[:prompt_end], text[prompt_end:]
    ends = range(400, len(rest), 997)
    accepted = [is_python_so_far(prompt, rest[:end]) for end in ends]
    assert sum(accepted) >= len(accepted) - 2  # long docstrings may hold all that was written
    broken = rest.replace("def ", "dfe ", 1)
    line_end = rest.index("\n", rest.index("def ")) + 1
    later = [end for end in ends if end > line_end]
    assert later and not any(is_python_so_far(prompt, broken[:end]) for end in later)
    ast.parse(text)
