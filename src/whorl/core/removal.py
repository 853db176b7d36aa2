"""Deleting what whorl wrote, and nothing else: what lies between its files stays where it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from whorl.core.records import MANIFEST, RUN, Record
from whorl.core.scratch import hold_scratch

__all__ = ["remove_record", "remove_run_folder"]

# What stages leave in a run folder.
RUN_FILES = ("checkpoints", "lock", "lock.holder.json", "metrics.jsonl", "rungs.json")
RUN_PATTERNS = ("loss.*", "spill-*")


def remove_record(record: Record) -> list[Path]:
    """Delete a record; gives what else lies in its folder, and stays. Raises OSError."""
    if not record.strangers(clutter=True):
        scratch, descriptor = hold_scratch(record.path)  # out of sight by one rename, then deleted
        try:
            os.rename(record.path, scratch / "doomed")
            shutil.rmtree(scratch)
        finally:
            os.close(descriptor)
        return []
    for name in (*record.files, RUN, MANIFEST):  # the manifest says what is ours: it goes last
        (record.path / name).unlink(missing_ok=True)
    return _remove_empty(record.path)


def remove_run_folder(path: Path) -> list[Path]:
    """Delete a run folder that nobody holds; gives what whorl did not put there, and stays."""
    for item in list(path.iterdir()):
        ours = item.name in RUN_FILES or any(fnmatchcase(item.name, p) for p in RUN_PATTERNS)
        if ours and item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif ours:
            item.unlink()
    return _remove_empty(path)


def _remove_empty(folder: Path) -> list[Path]:
    """Removes folders without files; gives the files that are left."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in sorted(folders, reverse=True):
        if not path.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
    if not folder.exists():
        return []
    left = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return left or [folder]
