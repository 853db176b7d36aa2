"""The page's files: plain, closed, short, all of them served and all of them used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from whorl.stages.serve.page import PAGE_FILES

STUDIO = Path(str(files("whorl.studio")))
SCRIPTS = sorted(STUDIO.rglob("*.js"))
MAX_LINES = 400
HTML_FROM_TEXT = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|srcdoc|document\.write|\beval\(|new Function|"
    r"DOMParser|createContextualFragment|setHTML|parseFromString|javascript:|"
    r"set(?:Timeout|Interval)\(\s*[\"'`]|"
    r"createElementNS|\.setAttribute\(\s*[\"']on|localStorage|\$\("
)
INLINE = re.compile(
    r"\son\w+\s*=|<style|\sstyle=|javascript:|<script(?![^>]*\ssrc=)", re.IGNORECASE
)
ADDRESS = re.compile(r"(?:https?:|wss?:)?//[\w.-]+\.\w+[^\s\"')]*")


def page() -> str:
    return (STUDIO / "index.html").read_text("utf-8")


def script_texts() -> str:
    return "\n".join(path.read_text("utf-8") for path in SCRIPTS)


def imports_of(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, name) of everything that a module takes from others."""
    for names, source in re.findall(r'import \{([^}]*)\} from "([^"]+)"', path.read_text("utf-8")):
        for name in names.replace("\n", " ").split(","):
            if name.strip():
                yield (path.parent / source).resolve(), name.strip()


def exports_of(path: Path) -> set[str]:
    kinds = r"^export (?:async )?(?:function\*?|const|class) (\w+)"
    return set(re.findall(kinds, path.read_text("utf-8"), re.MULTILINE))


def test_every_file_is_served_and_every_route_has_its_file() -> None:
    there = {
        str(path.relative_to(STUDIO))
        for path in STUDIO.rglob("*")
        if path.suffix in (".html", ".css", ".js", ".svg")
    }
    assert there == {name for name, _ in PAGE_FILES.values()}
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page()):
        assert name in PAGE_FILES


def test_modules_take_what_others_give_and_nothing_lies_idle() -> None:
    taken: dict[Path, set[str]] = {}
    for path in SCRIPTS:
        for source, name in imports_of(path):
            taken.setdefault(source, set()).add(name)
            assert path.read_text("utf-8").count(name) > 1, f"{path.name} takes {name} for nothing"
    for path in SCRIPTS:
        assert taken.get(path, set()) <= exports_of(path)
        idle = exports_of(path) - taken.get(path, set())
        assert not idle, f"{path.name} gives {idle} to nobody"


def test_files_are_short() -> None:
    for path in [*SCRIPTS, *STUDIO.glob("*.css"), STUDIO / "index.html"]:
        assert len(path.read_text("utf-8").splitlines()) < MAX_LINES, path.name


def test_the_page_asks_for_nothing_from_outside() -> None:
    for name, _ in PAGE_FILES.values():
        text = (STUDIO / name).read_text("utf-8")
        assert set(ADDRESS.findall(text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"@import|\burl\(", text)


def test_no_inline_code_and_no_html_from_texts() -> None:
    assert not INLINE.findall(page())
    for path in SCRIPTS:
        assert not HTML_FROM_TEXT.findall(path.read_text("utf-8")), path.name


@pytest.mark.parametrize(
    "planted",
    [
        "node.innerHTML = text",
        "node.insertAdjacentHTML('beforeend', text)",
        "eval(text)",
        "new Function(text)",
        "setTimeout('go()', 1)",
        "new DOMParser().parseFromString(text, 'text/html')",
        "node.setAttribute('onclick', text)",
    ],
)
def test_planted_html_is_found(planted: str) -> None:
    assert HTML_FROM_TEXT.search(planted)


@pytest.mark.parametrize("planted", ["<p onclick=x>", "<b style='x'>", "<script>x</script>"])
def test_planted_inline_code_is_found(planted: str) -> None:
    assert INLINE.search(planted)


def test_every_control_has_a_label_and_every_id_exists() -> None:
    text = page()
    ids = re.findall(r'\bid="([\w-]+)"', text)
    assert len(ids) == len(set(ids))
    for control in re.findall(r'<(?:input|textarea|select)[^>]*\bid="([\w-]+)"', text):
        assert f'for="{control}"' in text, control
    for target in re.findall(
        r'\b(?:for|aria-controls|aria-labelledby|aria-describedby)="([\w-]+)"', text
    ):
        assert target in ids
    used = set(re.findall(r'\bat\("([\w-]+)"\)', script_texts()))
    assert used and used <= set(ids)
    assert 'role="alert"' in text and 'role="status"' in text and '<html lang="en">' in text


def test_the_page_starts_with_the_sampling_that_the_server_tells() -> None:
    settings = (STUDIO / "parts/settings.js").read_text("utf-8")
    for control, key in (("temperature", "temperature"), ("top-p", "top_p"), ("seed", "seed")):
        (written,) = re.findall(rf'<input id="{control}"[^>]*>', page())
        assert "value=" not in written  # the server has the one home of these figures
        assert f'at("{control}").value = model.sampling?.{key}' in settings
        assert f'{key}: number("{control}")' in settings
