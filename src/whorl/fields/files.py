"""Items of a source of files: a file, a folder (with everything below it) or a glob.

Documents are named by their path relative to the source, so that a record is the same wherever
it lies. `whorl.fields.walk` finds the files, `whorl.fields.formats` reads what is listed here.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace

from whorl.core import streams
from whorl.core.encodings import is_wide
from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.core.reasons import shown_path
from whorl.core.sources import CANNOT_READ, PASSED_OVER, REJECTED, FileItem
from whorl.fields.jsonl import is_by_lines
from whorl.fields.parquet import count_rows
from whorl.fields.walk import COMPRESSED_SUFFIXES, Found, bare_suffix, walk, walk_glob

__all__ = [
    "EXCLUDED",
    "JSONL_SUFFIXES",
    "NAMED_FORMATS",
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
NAMED_FORMATS = {".json": "jsonl"}  # in a folder they are mostly settings: read where named
OTHER_FORMATS = (
    *(".arrow", ".feather", ".zip", ".7z", ".tar", ".tgz", ".rar", ".pdf", ".doc", ".docx"),
    *(".epub", ".odt", ".rtf", ".xls", ".xlsx", ".pptx", ".db", ".sqlite"),
)
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

    In a folder, files with the suffixes of `suffixes` (text) and `rows` (of ROW_FORMATS and
    NAMED_FORMATS) are taken, also compressed, and names that match `exclude` (shell patterns) are
    passed over; a file or glob takes what it names, as text if it is nothing of `rows`. Last come
    the items that tell what was passed over.

    Raises DataError when the source is missing, empty or holds no file of these kinds.
    """
    found = []
    is_named = not os.path.isdir(source.path)
    kinds = {suffix: {**ROW_FORMATS, **NAMED_FORMATS}[suffix] for suffix in rows}
    if is_named and "csv" in kinds.values():  # rows of every kind are wanted
        kinds |= NAMED_FORMATS
    for item in file_items(source, (*suffixes, *rows), exclude):
        if item.is_read:
            item = replace(item, kind=kinds.get(bare_suffix(item.name), "text"))
        if item.kind == "parquet":
            item = replace(item, num_rows=count_rows(item.path))
        found += _ranges(item) if item.kind in CUT_KINDS else [item]
    return found


def file_items(source: Source, suffixes: Sequence[str], exclude: Sequence[str]) -> list[FileItem]:
    """One item per file, and one per reason of passing over others.

    Raises DataError when the source is missing or has no file of these suffixes.
    """
    root = source_root(source)
    found = _find(source, root, suffixes, exclude)
    items = [_item(name, path, root, source.encoding) for name, path in found.files]
    items += [_rejected(name, root, reason) for name, reason in found.refused]
    _refuse_nothing(source, items, found, suffixes)
    for reason, skipped in found.skipped.items():
        item = FileItem(root, root, shown_path(skipped.name), PASSED_OVER, 0, reason=reason)
        items.append(replace(item, count=skipped.count, hint=skipped.hint))
    return items


def _refuse_nothing(
    source: Source, items: Sequence[FileItem], found: Found, suffixes: Sequence[str]
) -> None:
    """Raises DataError if no file is there to be read, or all are empty."""
    usable = [item for item in items if item.is_read]
    rejected = [item for item in items if not item.is_read]
    if not usable and not (rejected and found.files):
        parts = [f"{skipped.count} x {reason}" for reason, skipped in found.skipped.items()]
        parts += [f"{item.name}: {item.reason}" for item in rejected[:3]]
        num_others = sum(skipped.count for skipped in found.skipped.values())
        others = f"{num_others} other files: " if num_others else ""
        hints = [skipped.hint for skipped in found.skipped.values() if skipped.hint]
        raise DataError(
            f"source {source.source} holds no file to read",
            found=others + ", ".join(parts) if parts else "nothing",
            expected=" ".join(suffixes),
            do=hints[0] if hints else None,
        )
    if usable and all(item.num_bytes == 0 for item in usable):
        raise DataError(
            f"source {source.source} is empty",
            found=f"files of 0 bytes: {len(usable)}, no files: {len(rejected)}",
            expected="data",
            do="write your data there, or correct data.source",
        )


def source_root(source: Source) -> str:
    """The folder that names are relative to. Raises DataError if the source does not exist."""
    path = source.path
    if os.path.isdir(path):
        return os.path.realpath(path)
    if os.path.exists(path):
        return os.path.dirname(path)
    if not glob.has_magic(source.source):
        link = "a link to nothing" if os.path.islink(path) else None
        raise DataError(
            f"source {source.source} does not exist",
            found=link,
            expected="a file, a folder, a pattern like texts/*.jsonl.gz, or pypi: npm: debian: hf:",
            do="correct data.source (relative paths start at the recipe's folder)",
        )
    parts = os.path.expanduser(source.source).split(os.sep)
    magic = next(number for number, part in enumerate(parts) if _is_magic(part))
    above = os.sep.join(map(_without_escapes, parts[:magic])) or (os.sep if magic else "")
    root = os.path.abspath(os.path.join(source.folder, above))
    if not os.path.isdir(root):
        raise DataError(
            f"source {source.source} does not exist", found=f"no folder {root}", expected="a folder"
        )
    return root


def _is_magic(part: str) -> bool:
    return glob.has_magic(re.sub(r"\[[*?[]\]", "", part))


def _without_escapes(part: str) -> str:
    return re.sub(r"\[([*?[])\]", r"\1", part)


def _find(source: Source, root: str, suffixes: Sequence[str], exclude: Sequence[str]) -> Found:
    path = source.path
    if os.path.isdir(path):
        return walk(source, root, suffixes, exclude)
    if os.path.exists(path):
        found = Found([(os.path.basename(path), os.path.realpath(path))])
    else:
        found = walk_glob(source, root, source.pattern)
    other = [name for name, _ in found.files if bare_suffix(name) in OTHER_FORMATS]
    if other:
        raise DataError(
            f"source {source.source} has a format that is not read",
            found=f"{len(other)} files like {os.path.basename(other[0])}",
            expected=f"{' '.join(suffixes)}, also with {' '.join(COMPRESSED_SUFFIXES)}",
            do="convert them to text or .jsonl.zst",
        )
    return found


def _item(name: str, path: str, root: str, encoding: str) -> FileItem:
    """path: with links followed; what lies elsewhere may not become a link when it is read."""
    try:
        facts = os.stat(path)
    except OSError:
        missing = not os.path.lexists(path)
        return _rejected(name, root, "link to nothing" if missing else CANNOT_READ)
    if not stat.S_ISREG(facts.st_mode):
        return _rejected(name, root, "not a regular file")
    below = path.startswith(os.path.join(root, ""))
    base = root if below else os.path.dirname(path)
    return FileItem(path, base, shown_path(name), "file", facts.st_size, encoding=encoding)


def _rejected(name: str, root: str, reason: str) -> FileItem:
    path = os.path.join(root, name)
    return FileItem(path, root, shown_path(name), REJECTED, 0, reason=reason)


def _ranges(item: FileItem) -> list[FileItem]:
    """Byte ranges of a long plain file in UTF-8; how they are cut depends on its bytes alone."""
    if item.num_bytes <= RANGE_BYTES or not _can_be_cut(item):
        return [item]
    starts = range(0, item.num_bytes, RANGE_BYTES)
    ends = [*starts[1:], None]
    return [replace(item, start=s, end=e) for s, e in zip(starts, ends, strict=True)]


def _can_be_cut(item: FileItem) -> bool:
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, item.encoding) as opened:
            head = streams.head_of(opened.content)
            in_parts = item.kind != "jsonl" or is_by_lines(head)
            return opened.is_plain and in_parts and not is_wide(head)
    except streams.SourceFault:
        return False
