"""Homes that cannot be written are found out before any work, and said with their owner."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from whorl.core.disk import DISK_ERRNOS, check_writable, disk_error, fsync_folder, make_folder
from whorl.core.errors import ResourceError


def test_a_folder_that_can_be_written_is_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "home")
    assert os.listdir(tmp_path / "new" / "home") == []


@pytest.mark.parametrize("check", [check_writable, make_folder])
@pytest.mark.parametrize("inside", ["", "home", "home/deeper"])
def test_a_file_in_the_way_is_named(tmp_path: Path, check: object, inside: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"cannot make .*file.*a file in its way"):
        assert callable(check)
        check(tmp_path / "file" / inside)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EROFS"])
def test_who_owns_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    code = getattr(errno, number)

    def refused(**options: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / ".probe-x"))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(ResourceError) as caught:
        check_writable(tmp_path)
    told = str(caught.value)
    assert f"cannot write {tmp_path};" in told and "drwx" in told
    assert f"({os.geteuid()})" in told or f"user {os.geteuid()}" in told
    assert "WHORL_HOME" in told and caught.value.exit_code == 7


@pytest.mark.parametrize("code", sorted(DISK_ERRNOS))
def test_every_answer_of_a_disk_has_words(tmp_path: Path, code: int) -> None:
    told = disk_error(OSError(code, os.strerror(code)), tmp_path / "not" / "there")
    assert os.strerror(code) in str(told) and "bytes free" in str(told)
    assert f"cannot write {tmp_path / 'not' / 'there'};" in str(told)


def test_names_that_are_bytes_are_told(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "full", os.fsencode(tmp_path / "x"))
    assert f"cannot write {tmp_path / 'x'};" in str(disk_error(error, tmp_path))


@pytest.mark.parametrize(("number", "passes"), [("EINVAL", True), ("EIO", False)])
def test_a_disk_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, passes: bool
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(getattr(errno, number), "x")

    monkeypatch.setattr(os, "fsync", failing)
    if passes:
        fsync_folder(tmp_path)
    else:
        with pytest.raises(OSError):
            fsync_folder(tmp_path)
