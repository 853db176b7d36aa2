"""The home: the folder that records live in, and what of it whorl did not write.

<home>/<recipe>/<stage>/<digest>…                      records and their run folders
<home>/models/, sources/, machine/                     registry, what was fetched, figures
<home>/.engines/                                       exports, promises, kept answers
<home>/.serving/                                       API keys, their use, the log of answers
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from whorl.core.clutter import is_clutter
from whorl.core.errors import RecordError, SpecError
from whorl.core.records import MANIFEST, RECORD_NAME, SCRATCH_NAME, Record

__all__ = ["OWN_FOLDERS", "home_folder", "strangers"]

OWN_FOLDERS = ("models", "sources", "machine", ".engines", ".serving")
VARIABLE, DEFAULT = "WHORL_HOME", "runs"
RUN_NAME = re.compile(r"[0-9a-f]{32}\.run")


def home_folder(home: Path | None = None) -> Path:
    """Where records live: the argument, else WHORL_HOME, else ./runs; `~` is expanded.

    Raises SpecError if it is a file, or of a user that is not there.
    """
    given = home or Path(os.environ.get(VARIABLE) or DEFAULT)
    try:
        folder = given.expanduser()
    except RuntimeError as error:
        raise SpecError(f"the home {given} cannot be found", found=error) from error
    if os.path.lexists(folder) and not folder.is_dir():
        raise SpecError(
            f"the home {folder} is no folder",
            found="a link to nothing" if folder.is_symlink() else "a file",
            do=f"set {VARIABLE}, or give --home, to a folder",
        )
    return folder


def strangers(home: Path, stages: Sequence[str]) -> Iterator[Path]:
    """Files and folders of the home that whorl did not write, in order; no clutter.

    What cannot be looked into is passed over. stages: those that leave records.
    """
    for path in _inside(home):
        holds_records = path.is_dir() and any((path / stage).is_dir() for stage in stages)
        if not holds_records:
            if path.name not in OWN_FOLDERS:
                yield path
            continue
        for below in _inside(path):
            if below.name in stages and below.is_dir():
                yield from _of_stage(below, registry=path.name in OWN_FOLDERS)
            elif path.name not in OWN_FOLDERS:
                yield below


def _of_stage(folder: Path, registry: bool) -> Iterator[Path]:
    for path in _inside(folder):
        if RECORD_NAME.fullmatch(path.name) and (path / MANIFEST).is_file():
            yield from _of_record(path)
        elif not (RUN_NAME.fullmatch(path.name) or SCRATCH_NAME.fullmatch(path.name) or registry):
            yield path


def _of_record(path: Path) -> Iterator[Path]:
    try:
        record = Record.load(path)
    except RecordError:  # `whorl verify` names it
        return
    yield from (path / name for name in record.strangers())


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    except OSError:
        return []
