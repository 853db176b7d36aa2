"""Fetched sources: through fake clients always, through the real ones where they reach anything."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.ports import Source
from whorl.fields.code import FIELD as CODE
from whorl.fields.text import FIELD as TEXT
from whorl.schemes.base import run_client
from whorl.schemes.fetch import Fetched, fetch, parse

METADATA = "Metadata-Version: 2.1\nName: Tiny.Pack\nVersion: 1.2.0\nLicense: MIT\n\nText.\n"


def wheel(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


def tar(files: dict[str, str], links: dict[str, str] | None = None, mode: str = "w:gz") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return data.getvalue()


WHEEL = wheel(
    {
        "tiny/poem.txt": "roses are red\n" * 9,
        "tiny/code.py": "x = 1\n",
        "tiny-1.2.0.dist-info/METADATA": METADATA,
    }
)
PACKAGE = json.dumps({"name": "@some/pack", "version": "3.0.1", "license": "ISC"})
TARBALL = tar({"package/package.json": PACKAGE, "package/docs/a.md": "# A\n"}, {"package/l": "/"})


class Shop:
    """A client that leaves these files, and remembers what it was asked for."""

    def __init__(self, **files: bytes) -> None:
        self.files, self.commands = files, list[Sequence[str]]()

    def __call__(self, command: Sequence[str], folder: Path) -> str:
        self.commands.append(command)
        for name, data in self.files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return ""


def got(text: str, home: Path, shop: Shop, log: list[str] | None = None) -> Fetched:
    found = fetch(text, home, (log if log is not None else []).append, shop)
    assert found is not None
    return found


def test_a_wheel_is_fetched_once_and_read(tmp_path: Path) -> None:
    shop = Shop(**{"tiny_pack-1.2.0-py3-none-any.whl": WHEEL})
    found = got("pypi:tiny-pack==1.2/tiny/*.txt", tmp_path, shop)
    again = got("pypi:tiny-pack==1.2", tmp_path, Shop())
    digest = blake3(WHEEL).hexdigest()
    assert (
        found.release
        == again.release
        == {
            **{"scheme": "pypi", "name": "tiny-pack", "version": "1.2.0", "digest": digest},
            **{"licence": "MIT", "links_skipped": 0},
        }
    )
    assert Path(again.source) == tmp_path / "pypi" / f"tiny-pack-1.2.0-{digest[:16]}"
    (item,) = TEXT.items(Source(found.source, "text"))
    (document,) = TEXT.read(Source(found.source, "text"), item, pytest.fail)
    assert document.text == "roses are red\n" * 9
    items = CODE.items(Source(again.source, "code"))
    assert [item.name for item in items if item.is_read] == ["tiny/code.py"]
    (command,) = shop.commands
    assert command[-1] == "tiny-pack==1.2" and "--no-deps" in command
    assert "--only-binary" in command, "pip would run the code of a source distribution"
    assert [path.name for path in (tmp_path / "pypi").iterdir() if ".tmp-" in path.name] == []


def test_a_recipe_of_another_folder_reads_what_a_relative_home_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe's paths start at its folder; the home is ./runs unless somebody says otherwise."""
    monkeypatch.chdir(tmp_path)
    shop = Shop(**{"tiny_pack-1.2.0-py3-none-any.whl": WHEEL})
    found = got("pypi:tiny-pack==1.2/tiny/*.txt", Path("runs/sources"), shop)
    source = Source(found.source, "text", folder=str(tmp_path / "recipes"))
    assert [item.name for item in TEXT.items(source)] == ["poem.txt"]


def test_a_tarball_of_npm(tmp_path: Path) -> None:
    shop = Shop(**{"some-pack-3.0.1.tgz": TARBALL})
    found = got("npm:@some/pack@3.0.1/docs/*.md", tmp_path, shop)
    assert (found.release["licence"], found.release["links_skipped"]) == ("ISC", 1)
    assert [item.name for item in TEXT.items(Source(found.source, "text"))] == ["a.md"]
    assert list(shop.commands[0]) == [
        *("npm", "pack", "--ignore-scripts", "--silent", "@some/pack@3.0.1")
    ]


def test_a_package_of_debian(tmp_path: Path) -> None:
    """dpkg-deb is the real one: the fake client only stands for apt-get."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    tree = tmp_path / "tree"
    for name, text in {
        "DEBIAN/control": "Package: tiny\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: N <n@example.org>\nDescription: d\n",
        "usr/share/doc/tiny/copyright": "License: GPL-3+\n text\nLicense: MIT\n",
        "usr/share/tiny/words.txt": "one two\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(tmp_path / "t.deb")], check=True)
    data = (tmp_path / "t.deb").read_bytes()

    def client(command: Sequence[str], folder: Path) -> str:
        if command[0] != "apt-get":
            return run_client(command, folder)
        (folder / "tiny_1%3a2.0-1_all.deb").write_bytes(data)
        return ""

    found = fetch("debian:tiny=1:2.0-1/usr/share/tiny/*", tmp_path / "home", client=client)
    assert found is not None
    assert (found.release["version"], found.release["licence"]) == ("1:2.0-1", "GPL-3+, MIT")
    assert [i.name for i in TEXT.items(Source(found.source, "text"))] == ["words.txt"]


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    commit = "c0ffee" * 6 + "c0ff"
    files = {
        "README.md": b"---\nlicense: cc-by-4.0\n---\n# D\n",
        "data__a.jsonl": b'{"text": "hello"}\n',
        ".cache__huggingface__download__README.md.metadata": f"{commit}\ne\n1\n".encode(),
    }
    shop = Shop(**files)
    found = got("hf:owner/name@main/data/*.jsonl", tmp_path, shop)
    assert (found.release["version"], found.release["licence"]) == (commit, "cc-by-4.0")
    assert [item.name for item in TEXT.items(Source(found.source, "text"))] == ["a.jsonl"]
    command = " ".join(shop.commands[0])
    assert "--repo-type dataset owner/name" in command and "--revision main" in command
    got("hf:owner/name@main/data/*.jsonl", tmp_path, Shop())
    assert len(shop.commands) == 1
    got("hf:owner/name@main/other/*", tmp_path, shop)
    assert len(shop.commands) == 2, "another part of the data set has not been fetched yet"


def test_an_unpinned_version_is_resolved_once_and_told(tmp_path: Path) -> None:
    log: list[str] = []
    got("pypi:tiny-pack", tmp_path, Shop(**{"t.whl": WHEEL}), log)
    newer = wheel({"d.dist-info/METADATA": METADATA.replace("1.2.0", "9")})
    found = got("pypi:tiny-pack", tmp_path, Shop(**{"t.whl": newer}), log)
    assert found.release["version"] == "1.2.0"
    assert [line for line in log if "is not pinned: write pypi:tiny-pack==1.2.0" in line] == log[1:]


def test_a_pinned_digest_is_held_to(tmp_path: Path) -> None:
    digest = blake3(WHEEL).hexdigest()
    shop = Shop(**{"t.whl": WHEEL})
    assert got(f"pypi:tiny-pack==1.2.0#{digest[:12]}", tmp_path / "a", shop)
    with pytest.raises(DataError, match="has another digest"):
        got("pypi:tiny-pack==1.2.0#0123456789ab", tmp_path / "b", shop)


def test_a_registry_that_changes_a_release_is_noticed(tmp_path: Path) -> None:
    found = got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL}))
    shutil.rmtree(found.source)
    other = wheel({"x.txt": "other", "d.dist-info/METADATA": METADATA})
    with pytest.raises(DataError, match="is not what it was"):
        got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": other}))
    assert got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL})).source == found.source


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("pypi:tiny-pack==1.2.0", "download --no-deps --only-binary :all:"),
        ("npm:some@1.0", "npm pack --ignore-scripts --silent some@1.0"),
        ("debian:tiny=1.0", "apt-get download -q tiny=1.0"),
        ("hf:owner/name@v1", "hf download --repo-type dataset owner/name"),
    ],
)
@pytest.mark.parametrize("cause", ["offline", "missing"])
def test_without_network_or_client_the_error_says_what_to_do(
    tmp_path: Path, text: str, command: str, cause: str
) -> None:
    def fails(command: Sequence[str], folder: Path) -> str:
        if cause == "missing":
            raise FileNotFoundError(command[0])
        raise subprocess.CalledProcessError(1, command, "", "trying\nno route to the host\n")

    found = "is not installed" if cause == "missing" else "no route to the host"
    with pytest.raises(DataError, match=found) as caught:
        fetch(text, tmp_path, client=fails)
    assert command in str(caught.value) and ".byhand" in str(caught.value)


def test_what_was_fetched_by_hand_is_used(tmp_path: Path) -> None:
    def hand(text: str) -> Path:
        """The folder that the error names, with the wheel in it."""

        def fails(command: Sequence[str], folder: Path) -> str:
            raise FileNotFoundError(command[0])

        with pytest.raises(DataError, match="byhand") as caught:
            fetch(text, tmp_path, client=fails)
        named = re.search(r"into (\S+\.byhand)", str(caught.value))
        assert named is not None
        folder = Path(named[1])
        folder.mkdir(parents=True)
        (folder / "tiny.whl").write_bytes(WHEEL)
        return folder

    hand("pypi:tiny-pack==1.2.0")
    offline = Shop()
    assert got("pypi:tiny-pack==1.2.0", tmp_path, offline).release["version"] == "1.2.0"
    assert not offline.commands
    with pytest.raises(DataError, match=r"Tiny\.Pack 1\.2\.0; expected: tiny-pack 1\.3"):
        hand("pypi:tiny-pack==1.3")
        got("pypi:tiny-pack==1.3", tmp_path, offline)


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    bad = wheel({name: "x", "d.dist-info/METADATA": METADATA})
    with pytest.raises(DataError, match="outside of its folder"):
        got("pypi:tiny-pack==1.2.0", tmp_path / "home", Shop(**{"t.whl": bad}))
    archive = tar({f"package/{name}": "x", "package/package.json": PACKAGE})
    if ".." in name:
        with pytest.raises(DataError, match="outside of its folder"):
            got("npm:@some/pack@3.0.1", tmp_path / "home", Shop(**{"t.tgz": archive}))
    assert not list(tmp_path.rglob("*evil*"))
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_links_are_passed_over_and_bombs_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar({"package/package.json": PACKAGE}, {"package/docs": "/etc"})
    found = got("npm:@some/pack@3.0.1", tmp_path / "a", Shop(**{"t.tgz": archive}))
    assert [path.name for path in Path(found.source).iterdir()] == ["package.json"]
    monkeypatch.setattr("whorl.schemes.archives.FREE_BYTES", 10**6)
    bomb = tar({"package/package.json": PACKAGE, "package/zeros": "0" * 10**7})
    with pytest.raises(DataError, match="unpacks to too much"):
        got("npm:@some/pack@3.0.1", tmp_path / "b", Shop(**{"t.tgz": bomb}))


@pytest.mark.parametrize("cut", [10, 200])
def test_damaged_archives(tmp_path: Path, cut: int) -> None:
    with pytest.raises(DataError, match="not a whole zip"):
        got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL[:-cut]}))
    with pytest.raises(DataError, match=r"not a whole tar|has no package\.json"):
        got("npm:@some/pack@3.0.1", tmp_path, Shop(**{"t.tgz": TARBALL[: -len(TARBALL) // 2]}))


def test_damage_inside_of_a_wheel(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("poem.txt", "roses are red\n" * 9)
    damaged = bytearray(data.getvalue())
    damaged[38:48] = b"\xff" * 10
    with pytest.raises(DataError, match="not a whole zip"):
        got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": bytes(damaged)}))


@pytest.mark.parametrize("at", [-6, -4])
def test_the_sum_that_ends_a_tarball_is_read(tmp_path: Path, at: int) -> None:
    """Stored, not deflated: nothing else tells of damage."""
    packed = tar({"package/package.json": PACKAGE}, mode="w:")
    stored = zlib.compressobj(0, wbits=31)
    stream = bytearray(stored.compress(packed) + stored.flush())
    stream[at] ^= 1
    with pytest.raises(DataError, match="not a whole tar"):
        got("npm:@some/pack@3.0.1", tmp_path, Shop(**{"t.tgz": bytes(stream)}))


def test_names_and_versions_that_read_alike_are_two(tmp_path: Path) -> None:
    """debian:foo=1-2 and debian:foo-1=2: neither is taken for the other."""
    asked = []
    for text in ("npm:foo@1-2", "npm:foo-1@2"):
        name, _, version = text.removeprefix("npm:").partition("@")
        package = json.dumps({"name": name, "version": version})
        shop = Shop(**{"t.tgz": tar({"package/package.json": package, "package/n": text})})
        asked.append(got(text, tmp_path, shop))
        assert (Path(asked[-1].source) / "n").read_text() == text
    assert asked[0].source != asked[1].source


def test_a_commit_that_is_asked_for_is_the_one_that_came(tmp_path: Path) -> None:
    note = ".cache__huggingface__download__README.md.metadata"
    files = {"README.md": b"x", note: b"c0ffee" * 6 + b"c0ff\ne\n1\n"}
    with pytest.raises(DataError, match="not what was fetched"):
        got(f"hf:owner/name@{'ab' * 20}", tmp_path, Shop(**files))


@pytest.mark.parametrize(
    ("change", "found"), [("edit", "another content"), ("delete", "no such"), ("add", "a new file")]
)
def test_files_that_were_changed_afterwards_are_named(
    tmp_path: Path, change: str, found: str
) -> None:
    release = got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL}))
    path = Path(release.source) / "tiny" / ("new.txt" if change == "add" else "poem.txt")
    if change == "delete":
        path.unlink()
    else:
        path.write_text("roses are blu\n" * 9)  # as long as before
    with pytest.raises(DataError, match=rf"{path.name} is not as it was fetched.*{found}"):
        got("pypi:tiny-pack==1.2.0", tmp_path, Shop())
    shutil.rmtree(release.source)
    got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL}))


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    got("pypi:tiny-pack==1.2.0", tmp_path, Shop(**{"t.whl": WHEEL}))
    (note,) = (tmp_path / "pypi").glob("tiny-pack-1.2.0-????????.json")
    note.write_text(note.read_text().replace("MIT", "ISC"))
    with pytest.raises(RecordError, match=r"tiny-pack-1\.2\.0-\w+\.json is damaged"):
        got("pypi:tiny-pack==1.2.0", tmp_path, Shop())


@pytest.mark.parametrize("text", ["corpus/*.txt", "stdlib", "sklearn:digits", "C:thing"])
def test_other_sources_have_no_scheme(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("pypi:", "pypi:--upgrade", "pypi:six==-1", "pypi:six==1/../../x", "pypi:a b"),
        *("pypi:six==1.17.0//etc/passwd", "npm:x@1///etc/*"),
        *("npm:../x", "npm:git+ssh://x", "hf:name", "debian:x=$(id)", "debian:-o"),
    ],
)
def test_what_cannot_be_a_release_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        parse(text)


@pytest.mark.network
@pytest.mark.parametrize(
    ("text", "inside", "licence"),
    [
        ("pypi:six==1.17.0", "six.py", "MIT"),
        ("npm:left-pad@1.3.0", "index.js", "WTFPL"),
        ("debian:hello", "usr/share/doc/hello/copyright", ""),  # says it in free words
    ],
)
def test_real_clients(tmp_path: Path, text: str, inside: str, licence: str) -> None:
    try:
        found = fetch(text, tmp_path)
    except DataError as error:
        pytest.skip(f"this registry is not reachable here: {error}")
    assert found is not None and (Path(found.source) / inside).is_file()
    assert licence in found.release["licence"]
