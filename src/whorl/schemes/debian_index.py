"""`debian-index:packages`, `debian-index:es+fr`: what Debian's index says, fetched by apt-get.

packages      packages.jsonl: of each package its name, section and one-line description
es+fr         es.jsonl, fr.jsonl: paragraphs of descriptions beside their translations, and whose

The suite is that of the machine's own sources; its lists stay as they are. An index changes with
each release of Debian (`debian-index:packages=12.15`), and older ones cannot be fetched again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from whorl.core.errors import DataError
from whorl.schemes.base import Client, Facts, Wanted, check_is

__all__ = ["SCHEME"]

PACKAGES, ENGLISH = "packages", "en"
KEPT = {"Package": "package", "Section": "section", "Description": "description"}
LICENCE = "that of each package"
# Of other suites, which change by the day, nothing is kept: a release stays what it was.
UPDATE = (
    'apt-get update -q "$@" && rm -rf auxfiles partial cache lock ./*[-_]security_* ./*-updates_*'
)


@dataclass(frozen=True)
class DebianIndex:
    name: str = "debian-index"
    name_pattern: str = r"packages|[a-z]{2,3}(?:_[A-Z]{2})?(?:\+[a-z]{2,3}(?:_[A-Z]{2})?)*"
    separator: str = "="
    is_partial: bool = False

    def command(self, wanted: Wanted) -> list[str]:
        languages = "none" if wanted.name == PACKAGES else ",".join((ENGLISH, *_languages(wanted)))
        settings = {
            "Dir::State::lists": "./",
            "Dir::Cache": "./cache",
            "Acquire::GzipIndexes": "false",
            "Acquire::Languages": languages,
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        return ["sh", "-c", UPDATE, "apt-get", *options]

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        """Raises DataError if the suite or one of its indexes is not there."""
        suite, version = _suite(fetched)
        check_is(wanted, wanted.name, version)
        if wanted.name == PACKAGES:
            rows = (
                {name: stanza.get(key, "") for key, name in KEPT.items()}
                for stanza in _stanzas(_index(fetched, suite, "*_Packages"))
            )
            _write(into / "packages.jsonl", rows)
            return Facts(version, LICENCE)
        english = dict(_descriptions(_index(fetched, suite, f"*_Translation-{ENGLISH}"), ENGLISH))
        for language in _languages(wanted):
            path = _index(fetched, suite, f"*_Translation-{language}")
            _write(into / f"{language}.jsonl", _pairs(path, language, english))
        return Facts(version, LICENCE)


def _languages(wanted: Wanted) -> list[str]:
    """Raises DataError on one that comes twice, or on English."""
    languages = wanted.name.split("+")
    if len({*languages, ENGLISH}) <= len(languages):
        raise DataError(
            f"{wanted.text} names a language twice",
            expected="languages beside English, which is always there",
        )
    return languages


def _suite(fetched: Path) -> tuple[str, str]:
    """(how the files of the stable suite begin, its version such as 12.15)."""
    for path in sorted(fetched.glob("*_InRelease")):
        for stanza in _stanzas(path):
            if re.fullmatch(r"\d+\.\d+", version := stanza.get("Version", "")):
                return path.name.removesuffix("InRelease"), version
    raise DataError(
        f"{fetched} holds no suite of Debian with a version",
        found=sorted(path.name for path in fetched.glob("*"))[:6],
        expected="lists of a stable release, as apt-get update leaves them",
    )


def _index(fetched: Path, suite: str, pattern: str) -> Path:
    found = sorted(fetched.glob(f"{suite}main_{pattern}"))
    if len(found) != 1:
        raise DataError(
            f"{suite} has no index {pattern}",
            found=[path.name for path in found] or "none",
            do="correct the language, or fetch it where apt has the architecture",
        )
    return found[0]


def _stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Fields of each paragraph of an index; lines that go on keep their ends."""
    stanza: dict[str, str] = {}
    key = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            line = line.rstrip("\n")
            if not line:
                if stanza:
                    yield stanza
                stanza, key = {}, ""
            elif line[0] in " \t":
                stanza[key] = f"{stanza.get(key, '')}\n{line[1:]}"
            else:
                key, _, value = line.partition(":")
                stanza[key] = value.strip()
    if stanza:
        yield stanza


def _descriptions(path: Path, language: str) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """(digest of the English text, (package, paragraphs)), the one-line description first."""
    for stanza in _stanzas(path):
        text = stanza.get(f"Description-{language}", "")
        first, _, rest = text.partition("\n")
        paragraphs = [first, *(re.split(r"\n\.(?:\n|$)", rest) if rest else ())]
        joined = [" ".join(paragraph.split()) for paragraph in paragraphs]
        yield stanza.get("Description-md5", ""), (stanza.get("Package", ""), joined)


def _pairs(
    path: Path, language: str, english: Mapping[str, tuple[str, list[str]]]
) -> Iterator[dict[str, str]]:
    """Paragraphs of descriptions that have as many of them in both languages, each pair once."""
    seen = set()
    for digest, (package, translated) in _descriptions(path, language):
        _, originals = english.get(digest, ("", []))
        if len(originals) != len(translated):
            continue
        for original, other in zip(originals, translated, strict=True):
            if original and other and original != other and (original, other) not in seen:
                seen.add((original, other))
                yield {ENGLISH: original, language: other, "package": package}


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


SCHEME = DebianIndex()
