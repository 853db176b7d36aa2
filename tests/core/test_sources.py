"""The sealed index of sources: what is hashed again, and what is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from whorl.core import sources
from whorl.core.errors import DataError
from whorl.core.sources import SourceIndex

OLD_NS = time.time_ns() - 10**12


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three files; the clock is an hour on, so that they are old."""
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"file {number}")
        paths.append(str(path))
    later_ns = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(sources.time, "time_ns", lambda: later_ns)
    return paths


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, as they are."""
    names: list[str] = []
    digest_file = sources.digest_file

    def noted(path: Path) -> str:
        names.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(sources, "digest_file", noted)
    return names


def oracle(paths: list[str]) -> dict[str, str]:
    return {path: blake3(Path(path).read_bytes()).hexdigest() for path in paths}


def test_unchanged_files_are_hashed_once(
    tmp_path: Path, files: list[str], hashed: list[str]
) -> None:
    for _ in range(3):
        assert SourceIndex(tmp_path / "home").digests("a", files, 2) == oracle(files)
    assert sorted(hashed) == ["0.txt", "1.txt", "2.txt"]
    SourceIndex().digests("a", files, 2)
    assert len(hashed) == 6, "without a folder nothing is remembered"


@pytest.mark.parametrize("change", ["size", "time", "same size and time", "another file"])
def test_only_what_changed_is_hashed_again(
    tmp_path: Path, files: list[str], hashed: list[str], change: str
) -> None:
    index = SourceIndex(tmp_path / "home")
    index.digests("a", files, 2)
    hashed.clear()
    path = Path(files[1])
    facts = path.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    if change == "size":
        path.write_text("longer than before")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(OLD_NS, OLD_NS))
    elif change == "same size and time":
        path.write_text("FILE 1")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:
        other = tmp_path / "other"
        other.write_text("FILE 1")
        os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        other.rename(path)
    assert index.digests("a", files, 2) == oracle(files)
    assert hashed == ["1.txt"]


def test_young_files_are_not_trusted(
    tmp_path: Path, files: list[str], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = Path(files[0]).stat().st_ctime_ns + 10**9
    monkeypatch.setattr(sources.time, "time_ns", lambda: now_ns)
    index = SourceIndex(tmp_path / "home")
    assert index.digests("a", files, 2) == index.digests("a", files, 2) == oracle(files)
    assert len(hashed) == 6


@pytest.mark.parametrize("place", [0, 70, -3])
def test_a_damaged_index_is_rebuilt_with_a_notice(
    tmp_path: Path, files: list[str], hashed: list[str], place: int
) -> None:
    notices: list[str] = []
    index = SourceIndex(tmp_path / "home", notices.append)
    index.digests("a", files, 2)
    (path,) = (tmp_path / "home" / "index").iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert index.digests("a", files, 2) == oracle(files)
    assert len(hashed) == 6 and len(notices) == 1 and "index of source a is damaged" in notices[0]
    index.digests("a", files, 2)
    assert len(hashed) == 6 and len(notices) == 1


def test_a_file_that_goes_is_forgotten_and_one_that_cannot_be_read_is_told(
    tmp_path: Path, files: list[str], hashed: list[str]
) -> None:
    index = SourceIndex(tmp_path / "home")
    index.digests("a", files, 2)
    assert set(index.digests("a", files[:1], 2)) == {files[0]}
    assert index.digests("a", [str(tmp_path / "gone")], 2) == {
        str(tmp_path / "gone"): "file cannot be read"
    }
    index.digests("a", files, 2)
    assert sorted(hashed).count("0.txt") == 2, "each list of files replaces the one before"


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def grows(path: Path) -> str:
        path.write_text("more and more")
        return "0" * 64

    monkeypatch.setattr(sources, "digest_file", grows)
    with pytest.raises(DataError, match=r"0\.txt changed while it was being read"):
        SourceIndex(tmp_path / "home").digests("a", files[:1], 1)
