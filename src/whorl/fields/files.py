"""Which files a source is: a file, a folder (with everything below it) or a glob.

Documents are named by their path relative to the source, so that a record is the same wherever
it lies. Nothing is read outside the source, through links or otherwise. `whorl.fields.formats`
reads what is found here.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from whorl.core import streams
from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.parquet import count_rows

__all__ = [
    "EXCLUDED",
    "JSONL_SUFFIXES",
    "RANGE_BYTES",
    "ROW_FORMATS",
    "TEXT_SUFFIXES",
    "bare_suffix",
    "file_items",
    "source_root",
    "text_items",
]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex", ".html", ".adoc")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
ROW_FORMATS = {  # suffix -> kind of item: files of rows that have keys
    **dict.fromkeys(JSONL_SUFFIXES, "jsonl"),
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"},
}
COMPRESSED_SUFFIXES = (".gz", ".zst")
OTHER_FORMATS = (".arrow", ".feather", ".zip", ".7z", ".bz2", ".xz", ".tar", ".pdf")
EXCLUDED = (".*", "__pycache__")  # names of folders and files passed over in a folder
RANGE_BYTES = 8 * 2**20  # longer files are read as several items, where the format allows it
CUT_KINDS = ("text", "jsonl")


def text_items(
    source: Source,
    suffixes: Sequence[str] = TEXT_SUFFIXES,
    exclude: Sequence[str] = EXCLUDED,
    rows: Sequence[str] = tuple(ROW_FORMATS),
) -> list[FileItem]:
    """Items of a source of text, in an order that does not depend on the machine.

    In a folder, files with the suffixes of `suffixes` (text) and `rows` (of ROW_FORMATS) are
    taken, also compressed, and names that match `exclude` (shell patterns) are passed over; a
    file or glob takes what it names, as text if it is nothing of `rows`.

    Raises DataError when the source is missing, empty or holds no file of these kinds.
    """
    found = []
    for item in file_items(source, (*suffixes, *rows), exclude):
        if item.kind != "rejected":
            suffix = _suffix(_bare(item.path))
            kind = ROW_FORMATS[suffix] if suffix in rows else "text"
            item = replace(item, kind=kind)
        if item.kind == "parquet":
            item = replace(item, num_rows=count_rows(item.path))
        found += _ranges(item) if item.kind in CUT_KINDS else [item]
    return found


def file_items(source: Source, suffixes: Sequence[str], exclude: Sequence[str]) -> list[FileItem]:
    """One item per file. Raises DataError when the source is missing or has no such file."""
    root = source_root(source)
    paths, passed_over = _find(source, root, suffixes, exclude)
    items = [_item(path, root) for path in paths]
    items.sort(key=lambda item: os.fsencode(item.path))
    if not items:
        kinds = sorted({_suffix(path) or "no suffix" for path in passed_over})
        raise DataError(
            f"source {source.source} holds no file to read",
            found=f"{len(passed_over)} other files ({', '.join(kinds[:8])})"
            if passed_over
            else "nothing",
            expected=" ".join(suffixes),
        )
    if all(item.num_bytes == 0 for item in items if item.kind != "rejected"):
        usable = [item for item in items if item.kind != "rejected"]
        raise DataError(
            f"source {source.source} is empty",
            found=f"{len(usable)} files of 0 bytes, {len(items) - len(usable)} that are no files",
            expected="text",
        )
    return items


def source_root(source: Source) -> str:
    """The folder that names are relative to. Raises DataError if the source does not exist."""
    path = _absolute(source)
    if os.path.isdir(path):
        return path
    if os.path.exists(path):
        return os.path.dirname(path)
    if not glob.has_magic(source.source):
        raise DataError(
            f"source {source.source} does not exist",
            expected="a file, a folder, a pattern like texts/*.jsonl.gz, or pypi: npm: debian: hf:",
            do="correct data.source (relative paths start at the recipe's folder)",
        )
    parts = path.split(os.sep)
    magic = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = os.sep.join(parts[:magic]) or os.sep
    if not os.path.isdir(root):
        raise DataError(
            f"source {source.source} does not exist", found=f"no folder {root}", expected="a folder"
        )
    return root


def _absolute(source: Source) -> str:
    """The source's path; a file or folder that is itself a link is where it points."""
    path = source.path
    return os.path.realpath(path) if os.path.exists(path) else path


def _find(
    source: Source, root: str, suffixes: Sequence[str], exclude: Sequence[str]
) -> tuple[list[str], list[str]]:
    """(paths to read, paths passed over because of their suffix)."""
    path = _absolute(source)
    if os.path.isdir(path):
        return _walk(root, tuple(suffixes), exclude)
    if os.path.exists(path):
        found = [path]
    else:
        found = [hit for hit in glob.glob(path, recursive=True) if not os.path.isdir(hit)]
    other = [hit for hit in found if _suffix(hit) in OTHER_FORMATS]
    if other:
        raise DataError(
            f"source {source.source} has a format that is not read",
            found=f"{len(other)} files like {os.path.basename(sorted(other)[0])}",
            expected=f"{' '.join(suffixes)}, also with {' '.join(COMPRESSED_SUFFIXES)}",
            do="convert them to .jsonl.zst",
        )
    return found, []


def _walk(
    root: str, suffixes: tuple[str, ...], exclude: Sequence[str]
) -> tuple[list[str], list[str]]:
    taken, passed_over = [], []
    for folder, folders, files in os.walk(root, followlinks=False):
        kept = [name for name in folders if not _matches(name, exclude)]
        folders[:] = [name for name in kept if not os.path.islink(os.path.join(folder, name))]
        linked = sorted(set(kept) - set(folders))  # folders by link: rejected, never followed
        for name in [*files, *linked]:
            path = os.path.join(folder, name)
            if _matches(name, exclude):
                continue
            if name in linked or _bare(name).endswith(suffixes):
                taken.append(path)
            else:
                passed_over.append(path)
    return taken, passed_over


def _item(path: str, root: str) -> FileItem:
    name = os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")
    reason, num_bytes = "", 0
    try:
        facts = os.stat(path)
        num_bytes = facts.st_size
        if not streams.inside(path, root):
            reason = "link out of the source"
        elif stat.S_ISDIR(facts.st_mode):
            reason = "link to a folder"
        elif not stat.S_ISREG(facts.st_mode):
            reason = "not a regular file"
    except OSError:
        reason = "file cannot be read"
    if reason:
        return FileItem(path, root, name, "rejected", 0, reason=reason)
    return FileItem(path, root, name, "file", num_bytes)


def _ranges(item: FileItem) -> list[FileItem]:
    """Byte ranges of a long uncompressed file; how they are cut depends on its size alone."""
    if item.path.endswith(COMPRESSED_SUFFIXES) or item.num_bytes <= RANGE_BYTES:
        return [item]
    starts = range(0, item.num_bytes, RANGE_BYTES)
    ends = [*starts[1:], None]
    return [replace(item, start=s, end=e) for s, e in zip(starts, ends, strict=True)]


def _bare(path: str) -> str:
    """A path in lower case without the suffix of its compression."""
    lower = path.lower()
    for suffix in COMPRESSED_SUFFIXES:
        lower = lower.removesuffix(suffix)
    return lower


def bare_suffix(path: str) -> str:
    """ ".txt" of "Notes.TXT.gz"."""
    return _suffix(_bare(path))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
