"""The files below a folder or of a glob, each once, and what is passed over or refused there.

Links are followed, to files and to folders, as caches and data versioning make them; a folder is
read under one name, whatever leads to it, so that no circle of links goes on for ever. In what was
fetched (`Source.release`) a link leads nowhere outside. What whorl itself writes is never data.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from whorl.core.ports import Source
from whorl.core.streams import inside

__all__ = ["Found", "Skipped", "walk", "walk_glob"]

RECORD = re.compile(r"[0-9a-f]{32}(\.run|\.tmp-.*)?")  # a folder of a record
SEEN = "link to a folder that is read by another name"
HIDDEN = (".*",)  # names that no pattern of ours matches
OWN = "folder of whorl's own"
MAX_REASONS = 12  # why files are passed over, by kinds of names; the rest is one more
PLAIN_SUFFIX = re.compile(r"\.[a-z][a-z0-9_+-]{0,9}|\.[0-9]?[a-z0-9]{2,3}")


@dataclass
class Skipped:
    """Files passed over for one reason, and the first of them."""

    name: str
    count: int = 1
    hint: str = ""


@dataclass
class Found:
    """What a source is. Names are relative to its root."""

    files: list[tuple[str, str]] = field(default_factory=list)  # (name, path)
    refused: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)
    skipped: dict[str, Skipped] = field(default_factory=dict)  # by reason

    def skip(self, reason: str, name: str, hint: str = "") -> None:
        known = self.skipped.setdefault(reason, Skipped(name, 0, hint))
        known.count += 1
        known.name = min(known.name, name)

    def close(self) -> Found:
        """In order, and with few reasons."""
        self.files.sort(key=lambda entry: os.fsencode(entry[0]))
        self.refused.sort(key=lambda entry: os.fsencode(entry[0]))
        ranked = sorted(self.skipped.items(), key=lambda entry: (-entry[1].count, entry[0]))
        self.skipped = dict(ranked[:MAX_REASONS])
        for _, other in ranked[MAX_REASONS:]:
            rest = self.skipped.setdefault("other suffixes", Skipped(other.name, 0))
            rest.count += other.count
            rest.name = min(rest.name, other.name)
        return self


@dataclass
class _Walk:
    source: Source
    root: str  # links followed
    suffixes: tuple[str, ...] | None  # None: any
    exclude: Sequence[str]
    found: Found = field(default_factory=Found)
    visited: set[str] = field(default_factory=set)  # folders, links followed
    links: list[tuple[str, str]] = field(default_factory=list)  # (name, path) of folders

    def run(self) -> Found:
        """Folders first, then links to others, the nearest first: nothing depends on chance."""
        self._below("", self.root)
        while self.links:
            self.links.sort(key=lambda link: (link[0].count(os.sep), link[0]), reverse=True)
            name, path = self.links.pop()
            self._linked(name, os.path.realpath(path))
        return self.found.close()

    def _linked(self, name: str, real: str) -> None:
        if _is_own(real, self.source):
            self.found.skip(OWN, name)
        elif self.source.release is not None and not inside(real, self.root):
            self.found.refused.append((name, "link out of the source"))
        elif real not in self.visited and inside(self.root, real):
            self.found.refused.append((name, "link to a folder that the source lies in"))
        else:
            self._below(name, real)

    def _below(self, name: str, path: str) -> None:
        stack = [(name, path)]
        while stack:
            name, path = stack.pop()
            if path in self.visited:
                self.found.skip(SEEN, name)
                continue
            self.visited.add(path)
            stack += self._folder(name, path)

    def _folder(self, folder: str, path: str) -> Iterator[tuple[str, str]]:
        """Take the files of a folder; gives the folders in it."""
        try:
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            self.found.refused.append((folder or ".", "folder cannot be read"))
            return
        for entry in listed:
            name = os.path.join(folder, entry.name)
            is_folder = _is_folder(entry)
            pattern = next((p for p in self.exclude if fnmatch.fnmatchcase(entry.name, p)), None)
            if pattern is not None:
                kind = "folder" if is_folder else "file"
                self.found.skip(f"{kind} named {pattern}", name)
            elif is_folder and _is_own(entry.path, self.source):
                self.found.skip(OWN, name)
            elif is_folder and entry.is_symlink():
                self.links.append((name, entry.path))
            elif is_folder:
                yield name, entry.path
            elif self.suffixes is None or bare_suffix(entry.name) in self.suffixes:
                self._take(name, entry)
            else:
                self.found.skip(*_by_suffix(name))

    def _take(self, name: str, entry: os.DirEntry[str]) -> None:
        path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        if self.source.release is not None and not inside(path, self.root):
            self.found.refused.append((name, "link out of the source"))
        else:
            self.found.files.append((name, path))


def walk(source: Source, root: str, suffixes: Sequence[str], exclude: Sequence[str]) -> Found:
    """All below the folder root whose names end in one of the suffixes."""
    return _Walk(source, os.path.realpath(root), tuple(suffixes), exclude).run()


def walk_glob(source: Source, root: str, pattern: str) -> Found:
    """What a pattern names, whatever it ends in."""
    parts = pattern.split(os.sep)
    if "**" in parts:  # the library's own way through folders follows circles of links
        found = _Walk(source, os.path.realpath(root), None, HIDDEN).run()
        depth = len(os.path.abspath(root).rstrip(os.sep).split(os.sep))
        kept = [e for e in found.files if _matches(e[0].split(os.sep), parts[depth:])]
        return replace(found, files=kept)
    found = Found()
    for path in glob.glob(pattern):
        name, real = os.path.relpath(path, root), os.path.realpath(path)
        if os.path.isdir(path):
            found.skip("folder among the files of a pattern", name)
        elif any(_is_own(parent, source) for parent in _parents(os.path.dirname(path), root)):
            found.skip("file in a folder of whorl's own", name)
        elif source.release is not None and not inside(real, root):
            found.refused.append((name, "link out of the source"))
        else:
            found.files.append((name, real))
    return found.close()


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path matches a pattern, both in parts; ** is any number of folders."""
    if not parts or not names:
        return not names and all(part == "**" for part in parts)
    if parts[0] == "**":
        return any(_matches(names[number:], parts[1:]) for number in range(len(names) + 1))
    return fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _parents(folder: str, root: str) -> Iterator[str]:
    while len(folder) > len(root):
        yield folder
        folder = os.path.dirname(folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_own(path: str, source: Source) -> bool:
    """Whether a folder is this home, or a record of any home."""
    record = RECORD.fullmatch(os.path.basename(path))
    if record and (record[1] or os.path.exists(os.path.join(path, "manifest.json"))):
        return True
    return bool(source.apart) and os.path.realpath(path) in source.apart


COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


def bare_suffix(path: str) -> str:
    """The suffix in lower case without those of compression: .txt of Notes.TXT.gz"""
    lower = os.path.basename(path).lower()
    while lower.endswith(COMPRESSED_SUFFIXES):
        lower = os.path.splitext(lower)[0]
    return os.path.splitext(lower)[1]


def _by_suffix(name: str) -> tuple[str, str, str]:
    suffix = bare_suffix(name)
    if suffix == ".json":
        hint = "name such files to have them read as rows: source: FOLDER/*.json"
        return "suffix .json", name, hint
    known = PLAIN_SUFFIX.fullmatch(suffix)
    return (f"suffix {suffix}" if known else "no usual suffix"), name, ""
