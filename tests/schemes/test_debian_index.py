"""Debian's index as a source: packages and translations, of the stable suite alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.schemes.test_fetch import Shop, got
from whorl.core.errors import DataError, SpecError

SUITE, OTHER = "host_debian_dists_bookworm_", "host_debian_dists_bookworm-updates_"
SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
RELEASE = f"{SIGNED}Origin: Debian\nVersion: 12.15\nCodename: bookworm\n"
PACKAGES = (
    "Package: a\nSection: games\nDescription: plays\nTag: x,\n y\n\nPackage: b\nSection: libs\n"
)


def translation(language: str, texts: dict[str, str]) -> str:
    return "\n".join(
        f"Package: {name}\nDescription-md5: {name}5\nDescription-{language}: {text}\n"
        for name, text in texts.items()
    )


ENGLISH = {"a": "plays\n One para\n of two lines.\n .\n Two.", "b": "same", "c": "three\n x"}
SPANISH = {"a": "juega\n Un párrafo.\n .\n Dos.", "b": "same", "c": "tres", "d": "nada"}
FILES = {
    f"{SUITE}InRelease": RELEASE,
    f"{SUITE}main_binary-amd64_Packages": PACKAGES,
    f"{SUITE}main_i18n_Translation-en": translation("en", ENGLISH),
    f"{SUITE}main_i18n_Translation-es": translation("es", SPANISH),
    f"{OTHER}InRelease": RELEASE.replace("12.15", "12-updates"),
    f"{OTHER}main_binary-amd64_Packages": "Package: other\n",
}


def shop(**changed: str) -> Shop:
    return Shop(**{name: text.encode() for name, text in {**FILES, **changed}.items()})


def rows(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_packages_have_section_and_description(tmp_path: Path) -> None:
    client = shop()
    found = got("debian-index:packages/packages.jsonl", tmp_path, client)
    assert rows(found.source) == [
        {"package": "a", "section": "games", "description": "plays"},
        {"package": "b", "section": "libs", "description": ""},
    ]
    assert found.release["version"] == "12.15"
    command = " ".join(client.commands[0])
    assert "Acquire::Languages=none" in command and "Dir::State::lists=./" in command


def test_paragraphs_stand_beside_their_translations(tmp_path: Path) -> None:
    found = got("debian-index:es=12.15/es.jsonl", tmp_path, shop())
    assert rows(found.source) == [
        {"en": "plays", "es": "juega", "package": "a"},
        {"en": "One para of two lines.", "es": "Un párrafo.", "package": "a"},
        {"en": "Two.", "es": "Dos.", "package": "a"},
    ]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index"):
        got("debian-index:fr", tmp_path / "a", shop())
    with pytest.raises(DataError, match="is not what was fetched"):
        got("debian-index:packages=11.9", tmp_path / "b", shop())
    with pytest.raises(DataError, match="no suite of Debian"):
        got("debian-index:es", tmp_path / "c", shop(**{f"{SUITE}InRelease": "Origin: x\n"}))
    for text in ("debian-index:es+es", "debian-index:en+es"):
        with pytest.raises(DataError, match="names a language twice"):
            got(text, tmp_path / "d", shop())
    with pytest.raises(SpecError):
        got("debian-index:../x", tmp_path / "e", shop())
