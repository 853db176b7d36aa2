"""Registry: numbers, the same lineage once, many at a time, damage, full disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whorl.core.errors import RecordError, ResourceError
from whorl.stages.improve.registry import Version, list_versions, register

SCORE = {
    "kind": "model",
    "name": "openvino int8",
    "metric": "bits_per_byte",
    "value": 1.25,
    "low": 1.2,
    "high": 1.3,
    "num_documents": 40,
    "note": "",
}


def lineage(number: int) -> dict[str, str]:
    return {"prepare": "a" * 32, "train": f"{number:032d}"}


def test_versions_are_numbered_and_listed(tmp_path: Path) -> None:
    when = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    first = register(tmp_path, "small", lineage(1), [SCORE], created=when)
    assert first.version == 1 and first.created == "2026-11-22T20:00:00+00:00"
    assert first.lineage == lineage(1) and first.scores[0].value == 1.25
    second = register(tmp_path, "small", lineage(2), [])
    other = register(tmp_path, "large", lineage(2), [SCORE])
    assert (second.version, other.version) == (2, 1)
    assert list_versions(tmp_path) == [other, first, second]
    assert list_versions(tmp_path, "small") == [first, second]
    assert list_versions(tmp_path, "none") == [] and list_versions(tmp_path / "empty") == []
    assert sorted(path.name for path in (tmp_path / "models/small").iterdir()) == [
        "v0001.json",
        "v0002.json",
    ]


def test_the_same_lineage_is_one_version(tmp_path: Path) -> None:
    first = register(tmp_path, "small", lineage(1), [SCORE])
    register(tmp_path, "small", lineage(2), [SCORE])
    assert register(tmp_path, "small", dict(reversed(lineage(1).items())), []) == first
    assert len(list_versions(tmp_path, "small")) == 2


def test_threads_never_share_a_number(tmp_path: Path) -> None:
    found: list[Version] = []
    threads = [
        threading.Thread(
            target=lambda n=number: found.append(register(tmp_path, "small", lineage(n // 2), []))
        )
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len({version.version for version in found}) == 8
    assert [version.version for version in list_versions(tmp_path)] == list(range(1, 9))


def test_processes_never_share_a_number(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from whorl.stages.improve.registry import register\n"
        "home, name = Path(sys.argv[1]), sys.argv[2]\n"
        "for n in range(5): register(home, 'small', {'train': name + str(n)}, [])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "abc"
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    versions = list_versions(tmp_path)
    assert [version.version for version in versions] == list(range(1, 16))
    assert len({version.lineage["train"] for version in versions}) == 15


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    register(tmp_path, "small", lineage(1), [SCORE])
    path = tmp_path / "models/small/v0001.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RecordError, match=r"v0001\.json"):
            list_versions(tmp_path)
        with pytest.raises(RecordError):
            register(tmp_path, "small", lineage(2), [])
    path.write_bytes(whole)
    assert len(list_versions(tmp_path)) == 1


def test_a_moved_file_is_refused(tmp_path: Path) -> None:
    register(tmp_path, "small", lineage(1), [])
    folder = tmp_path / "models/small"
    (folder / "v0007.json").write_bytes((folder / "v0001.json").read_bytes())
    with pytest.raises(RecordError, match="another version"):
        list_versions(tmp_path)


def test_numbers_go_on_after_one_was_deleted(tmp_path: Path) -> None:
    for number in (1, 2):
        register(tmp_path, "small", lineage(number), [])
    (tmp_path / "models/small/v0001.json").unlink()
    assert register(tmp_path, "small", lineage(3), []).version == 3


def test_what_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="models"):
        register(tmp_path, "small", lineage(1), [])


@pytest.mark.parametrize("number", ["EPERM", "ENOTSUP"])
def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(getattr(errno, number), "no links here")

    monkeypatch.setattr(os, "link", no_links)
    versions = [register(tmp_path, "demo", {"train": str(n)}, []) for n in range(3)]
    assert [version.version for version in versions] == [1, 2, 3]
    assert list_versions(tmp_path, "demo") == versions
    assert sorted(path.name for path in (tmp_path / "models" / "demo").glob("*.json")) == [
        f"v000{n}.json" for n in (1, 2, 3)
    ]
