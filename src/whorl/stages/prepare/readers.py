"""Readers of text: plain files, trees of source code, jsonl (also .gz and .zst).

A source is a file, a folder (read with everything below it) or a glob. Documents are named by
their path relative to it, so that a record is the same wherever the source lies; rows and
pieces of a file add `@` and the byte they begin at.

Fields call `text_items` and `read_item`. A row that cannot be used is rejected with a reason out
of a small fixed set; nothing is read outside the source, through links or otherwise.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from whorl.core.errors import DataError
from whorl.core.ports import Document, Part, Source
from whorl.core.sources import FileItem
from whorl.stages.prepare import streams

__all__ = [
    "JSONL_SUFFIXES",
    "RANGE_BYTES",
    "TEXT_SUFFIXES",
    "file_items",
    "read_item",
    "source_root",
    "text_items",
]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex", ".html", ".adoc")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
COMPRESSED_SUFFIXES = (".gz", ".zst")
OTHER_FORMATS = (".parquet", ".arrow", ".feather", ".zip", ".7z", ".bz2", ".xz", ".tar", ".pdf")
EXCLUDED = (".*", "__pycache__")  # names of folders and files passed over in a folder
RANGE_BYTES = 8 * 2**20  # longer files are read as several items

Reject = Callable[[str], None]


def text_items(
    source: Source,
    suffixes: Sequence[str] = TEXT_SUFFIXES,
    exclude: Sequence[str] = EXCLUDED,
) -> list[FileItem]:
    """Items of a source of text, in an order that does not depend on the machine.

    In a folder, files with these suffixes and jsonl files are taken (also compressed) and names
    that match `exclude` (shell patterns) are passed over; a file or glob takes what it names.

    Raises DataError when the source is missing, empty or holds no file of these kinds.
    """
    wanted = (*suffixes, *JSONL_SUFFIXES)
    items = [
        part
        for item in file_items(source, wanted, exclude)
        for part in ([item] if item.kind == "rejected" else _ranges(item))
    ]
    return items


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
    kind = "jsonl" if _bare(path).endswith(JSONL_SUFFIXES) else "text"
    return FileItem(path, root, name, kind, num_bytes)


def _ranges(item: FileItem) -> list[FileItem]:
    """Byte ranges of a long uncompressed file; how they are cut depends on its size alone."""
    if item.path.endswith(COMPRESSED_SUFFIXES) or item.num_bytes <= RANGE_BYTES:
        return [item]
    starts = range(0, item.num_bytes, RANGE_BYTES)
    return [
        FileItem(item.path, item.root, item.name, item.kind, item.num_bytes, start, end)
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]


def _bare(path: str) -> str:
    """A path in lower case without the suffix of its compression."""
    lower = path.lower()
    for suffix in COMPRESSED_SUFFIXES:
        lower = lower.removesuffix(suffix)
    return lower


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# ------------------------------------------------------------------ reading


def read_item(item: FileItem, reject: Reject, text_key: str = "text") -> Iterator[Document]:
    """The documents of an item; calls reject(reason) for each row (or file) it cannot use.

    Raises DataError if the file changed since the items were listed.
    """
    if item.kind == "rejected":
        reject(item.reason)
        return
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as (content, _):
            if item.kind == "jsonl":
                yield from _rows(content, item, reject, text_key)
            else:
                yield from _files(content, item, reject)
    except streams.SourceFault as fault:
        reject(str(fault))
    except OSError as error:
        raise DataError(f"cannot read {item.name}", found=error.strerror) from error


def _rows(content: Any, item: FileItem, reject: Reject, text_key: str) -> Iterator[Document]:
    for offset, line in streams.lines(content, item.start, item.end):
        if line is None:
            reject(f"row longer than {streams.MAX_ROW_BYTES:,} bytes")
            continue
        if line.isspace():
            continue
        try:
            text = _text_of_row(line, text_key)
        except ValueError as error:
            reject(str(error))
            continue
        yield Document(f"{item.name}@{offset}", (Part("text", text),))


def _text_of_row(line: bytes, text_key: str) -> str:
    """Raises ValueError whose text is the reason of the rejection."""
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except _Constant as error:
        raise ValueError("NaN or Infinity in JSON") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("JSON but not an object")
    if text_key not in row:
        raise ValueError(f"no key {text_key}")
    if not isinstance(row[text_key], str):
        raise ValueError(f"{text_key} is not a text")
    return _checked(row[text_key])


class _Constant(ValueError):
    pass


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


def _files(content: Any, item: FileItem, reject: Reject) -> Iterator[Document]:
    for offset, data in streams.pieces(content, item.start, item.end):
        try:
            text = _checked(_decode(data))
        except ValueError as error:
            reject(str(error))
            continue
        name = item.name if offset is None else f"{item.name}@{offset}"
        yield Document(name, (Part("text", text),))


def _decode(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error


def _checked(text: str) -> str:
    """Raises ValueError on text that no tokenizer should see."""
    if not text or text.isspace():
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("NUL in text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("lone surrogate in text") from error
    return text
