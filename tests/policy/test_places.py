"""The repository names no machine and no registry: it must work on anyone's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.policy.conftest import ROOT, report, repository_files

MACHINE_PATH = re.compile(r"(?<![\w.~$}>-])/(?:root|home|Users|work|tmp|opt|mnt|srv)/[\w.-]+")
WINDOWS_PATH = re.compile(r"\b[A-Z]:\\\\?(?:Users|Windows|Program)")
HOSTS = tuple(  # their dots are put in here, so that this file names none of them either
    ".".join(words)
    for words in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python", "org"),
        ("download", "pytorch", "org"),
        ("conda", "anaconda", "org"),
        ("registry", "npmjs", "org"),
        ("unpkg", "com"),
        ("jsdelivr", "net"),
        ("cdnjs", "cloudflare", "com"),
        ("fonts", "googleapis", "com"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("nvcr", "io"),
    )
)
REGISTRY = re.compile(
    "|".join(map(re.escape, HOSTS))
    + r"|--(?:extra-)?index-url|--trusted-host|--find-links[= ]https?:",
    re.IGNORECASE,
)
KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\b(?:ghp|hf|sk)_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}")
EXEMPT = frozenset({"tests/policy/test_places.py"})  # it plants every one of them
MAX_FILE_BYTES = 2_000_000


def offenders_of(name: str, text: str) -> list[str]:
    offenders = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in (
            (MACHINE_PATH, "a path of one machine"),
            (WINDOWS_PATH, "a path of one machine"),
            (REGISTRY, "a registry or mirror"),
            (KEY, "a secret"),
        ):
            if match := pattern.search(line):
                offenders.append(f"{name}:{number}: {what}: {match[0]}")
    return offenders


def read_text(path: Path) -> str:
    """The text of a file; "" when it is not UTF-8 text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_machine_and_no_registry_is_named() -> None:
    offenders: list[str] = []
    for path in repository_files():
        name = str(path.relative_to(ROOT))
        if name not in EXEMPT:
            offenders += offenders_of(name, read_text(path))
    assert not offenders, report(offenders)


def test_no_file_is_huge() -> None:
    sizes = {path: path.stat().st_size for path in repository_files()}
    offenders = [f"{path}: {size:,} bytes" for path, size in sizes.items() if size > MAX_FILE_BYTES]
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    "text",
    [
        "path = '/home/someone/data'",
        "see /root/.cache",
        "`/tmp/build`",
        r"C:\Users\someone",
        *(f"https://{host}/simple" for host in HOSTS),
        "pip install --index-url x",
        f"<script src='https://cdn.{HOSTS[7]}/x.js'>",
        "-----BEGIN RSA PRIVATE KEY-----",
        "token = 'hf_" + "a1B2" * 9 + "'",
    ],
)
def test_planted_violation_is_found(text: str) -> None:
    assert len(offenders_of("docs/planted.md", f"fine\n{text}\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<home>/<recipe>/work/x",
        "tmp_path / 'home'",
        "$HOME/work/x",
        "https://arxiv.org/abs/1",
        "GET /",
    ],
)
def test_good_text_passes(text: str) -> None:
    assert not offenders_of("docs/good.md", text)
