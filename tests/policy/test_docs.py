"""The docs say what is there: links resolve, generated pages are fresh, every package is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.conftest import ROOT, python_files, report
from whorl.core import errors

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CHANGE_SECTIONS = frozenset({"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"})


def pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors_of(text: str) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+\s+(.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in headings}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that are not there."""
    text = page.read_text("utf-8")
    offenders = []
    for found in LINK.findall(FENCE.sub("", text)):
        target, _, anchor = (found[0] or found[1]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / target if target else page
        if not path.exists():
            offenders.append(f"{page.name}: no file {target}")
        elif anchor and anchor not in anchors_of(path.read_text("utf-8")):
            offenders.append(f"{page.name}: no heading #{anchor} in {path.name}")
    return offenders


def changelog_offenders(text: str) -> list[str]:
    """What Keep a Changelog asks for: Unreleased first, versions falling, known sections."""
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    offenders = [] if titles[:1] == ["[Unreleased]"] else ["the first section is not [Unreleased]"]
    versions = [tuple(int(n) for n in re.findall(r"\d+", t.partition("]")[0])) for t in titles[1:]]
    if versions != sorted(set(versions), reverse=True):
        offenders.append("versions do not fall")
    unknown = set(re.findall(r"^### (.*)$", text, re.MULTILINE)) - CHANGE_SECTIONS
    return offenders + [f"unknown section {name}" for name in sorted(unknown)]


def test_no_section_stands_twice() -> None:
    """A page merged badly says the same twice, the second time as it was."""
    offenders = []
    for page in pages():
        titles = re.findall(r"^## +(.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
        offenders += [f"{page.name}: {title}" for title in set(titles) if titles.count(title) > 1]
    assert not offenders, report(offenders)


def test_docs_links_resolve() -> None:
    offenders = [line for page in pages() for line in broken_links(page)]
    assert not offenders, report(offenders)


def test_docs_generated_pages_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_docs_list_every_error_with_its_exit_code() -> None:
    rows = re.findall(r"^\| (\d[\d, ]*) \| `(\w+)` \|", (ROOT / "docs/errors.md").read_text(), re.M)
    listed = {name: code for code, name in rows}
    classes = {name: getattr(errors, name) for name in errors.__all__}
    classes = {k: v for k, v in classes.items() if isinstance(v, type) and k != "WhorlError"}
    assert listed.keys() == classes.keys()
    for name, error in classes.items():
        if error is not errors.Interrupted:
            assert listed[name] == str(error.exit_code)
    interrupted = [errors.Interrupted("x", signal_number=n).exit_code for n in (1, 2, 15)]
    assert listed["Interrupted"] == ", ".join(map(str, interrupted))
    codes = [error.exit_code for error in classes.values() if error is not errors.Interrupted]
    assert len(set(codes)) == len(codes), "two errors share an exit code"


def test_docs_structure_names_every_package() -> None:
    text = (ROOT / "docs/structure.md").read_text("utf-8")
    packages = {
        "/".join(Path(file.name).parts[2:-1]) + "/"
        for file in python_files("src")
        if file.name.endswith("__init__.py") and len(Path(file.name).parts) > 3
    } - {"stages/"}
    offenders = [name for name in sorted(packages) if f"`{name}`" not in text]
    assert not offenders, report(offenders)


def test_docs_decisions_are_numbered_and_have_a_status() -> None:
    paths = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [path.name[:3] for path in paths] == [f"{n:03}" for n in range(1, len(paths) + 1)]
    for path in paths:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {path.name[:3]}: ") and "**Status:**" in text, path.name
        assert "## Decision" in text and "## Rejected" in text, path.name


def test_docs_log_is_dated_newest_first() -> None:
    text = COMMENT.sub("", (ROOT / "docs/log.md").read_text("utf-8"))
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert all(re.match(r"\d{4}-\d\d-\d\d: ", title) for title in titles), titles
    dates = [title[:10] for title in titles]
    assert dates == sorted(dates, reverse=True)


def test_docs_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert not changelog_offenders(text)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"## [{version[1]}]" in text


def test_docs_name_only_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = {
        target
        for page in pages()
        for target in re.findall(
            r"(?:^|`|\$ )make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE
        )
    }
    assert used <= targets, used - targets


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a](missing.md)", "no file missing.md"),
        ('<img alt="x" src="missing.svg">', "no file missing.svg"),
        ("# One\n[a](#two)", "no heading #two"),
    ],
)
def test_docs_planted_link_is_found(tmp_path: Path, text: str, reason: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    offenders = broken_links(page)
    assert len(offenders) == 1 and reason in offenders[0]
    page.write_text("# One two\n[a](#one-two) [b](https://x.org/y)\n```\n[c](missing)\n```\n")
    assert not broken_links(page)


@pytest.mark.parametrize(
    "text",
    [
        "# C\n## [0.1.0]\n### Added\n",
        "# C\n## [Unreleased]\n## [0.1.0]\n## [0.2.0]\n",
        "# C\n## [Unreleased]\n### Improved\n",
    ],
)
def test_docs_planted_changelog_is_found(text: str) -> None:
    assert len(changelog_offenders(text)) == 1
