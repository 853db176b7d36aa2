"""What a server writes into its home: whole lines, bounded, for its owner's eyes alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whorl.core.errors import ResourceError
from whorl.stages.serve import answers_log, lines
from whorl.stages.serve.answers_log import AnswersLog
from whorl.stages.serve.keys import keys_file, list_keys
from whorl.stages.serve.lines import append_line, own_folder

WRITER = """
import sys
from pathlib import Path
from whorl.stages.serve.lines import append_line
for number in range(300):
    line = f"{sys.argv[2]} {number} {'x' * (number % 50)}"
    append_line(Path(sys.argv[1]), line.encode(), 3000, 99)
"""


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "a.jsonl", os.write
    append_line(path, b"first", 1000)

    def short(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(lines.os, "write", short)
    with pytest.raises(OSError) as refused:
        append_line(path, b"second", 1000)
    assert refused.value.errno == errno.ENOSPC
    monkeypatch.setattr(lines.os, "write", write)
    append_line(path, b"third", 1000)
    assert path.read_bytes() == b"first\nthird\n"


def test_half_a_line_of_a_process_that_died_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b", "te')
    append_line(path, b'{"id": "c"}', 1000)
    assert path.read_bytes().split(b"\n")[-2:] == [b'{"id": "c"}', b""]


def test_files_are_moved_away_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for number in range(40):
        append_line(path, f"{number:04d}".encode(), 20, 3)
    names = ("a.jsonl.3", "a.jsonl.2", "a.jsonl.1", "a.jsonl")
    assert {file.name for file in tmp_path.iterdir()} == set(names)
    kept = "".join((tmp_path / name).read_text() for name in names).split()
    assert kept == [f"{number:04d}" for number in range(24, 40)]
    with pytest.raises(OSError, match="holds 20 bytes"):
        append_line(path, b"more", 20)
    assert path.stat().st_mode & 0o077 == 0


def test_several_processes_lose_no_line_while_files_are_moved(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in "ABC"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [line.split() for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted((name, int(number)) for name, number, *_ in found) == [
        (name, number) for name in "ABC" for number in range(300)
    ]
    assert len(list(tmp_path.iterdir())) > 5


def test_the_folder_is_its_owners_without_whorl_keys(start: Any, tmp_path: Path) -> None:
    """Also one that an earlier version left open."""
    for home, is_old in ((tmp_path / "new", False), (tmp_path / "old", True)):
        if is_old:
            (home / ".serving").mkdir(parents=True)
            (home / ".serving").chmod(0o755)
        with start(home=home) as running:
            assert running.complete().status_code == 200
        folder = home / ".serving"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "answers.jsonl").stat().st_mode & 0o077 == 0
        assert list_keys(keys_file(home)) == ()


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / ".serving").write_text("")
    with pytest.raises(ResourceError, match="file in its way"):
        own_folder(tmp_path / ".serving")


def test_the_log_of_answers_is_bounded_and_knows_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_log, "MAX_FILE_BYTES", 2000)
    log = AnswersLog(tmp_path / "log", with_text=False)
    for number in range(400):
        log.add({"id": f"{number:032x}", "caller": "page", "text": f'"id": "{0:032x}"'})
    files = list((tmp_path / "log").iterdir())
    assert len(files) == 8 and sum(file.stat().st_size for file in files) <= 8 * 2000
    found = log.find(f"{399:032x}")
    assert found is not None and found["caller"] == "page"
    assert log.find(f"{0:032x}") is None  # gone; and no text of another is taken for it
    assert all(json.loads(line) for file in files for line in file.read_text().splitlines())
