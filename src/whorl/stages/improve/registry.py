"""Registered models: `<home>/models/<recipe>/v0001.json`, numbered from 1, only ever added to.

A version says which records it comes from and how it scored. Files are sealed and published by
a hard link, so two processes never take one number and nobody reads half a file; on a disk without
links, by a rename under a lock.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.disk import disk_error, fsync_folder
from whorl.core.errors import BusyError, RecordError
from whorl.core.lock import exclusive
from whorl.core.validation import first_problem
from whorl.core.variants import Variant

__all__ = ["RegisteredScore", "Version", "list_versions", "register"]

FOLDER = "models"
FILE = re.compile(r"v(\d{4,})\.json")
MAX_TRIES = 100  # numbers taken by others while we looked
NO_LINKS_ERRNOS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RegisteredScore(_Frozen):
    """One line of the evaluation's scores.json."""

    kind: Literal["model", "baseline", "alone"]
    field: str = ""  # "": registered when models had one
    name: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    num_documents: int | None = None
    note: str = ""
    variant: Variant | None = None


class Version(_Frozen):
    name: str = Field(description="the recipe's name")
    version: int = Field(ge=1)
    created: str = Field(description="UTC, ISO 8601")
    lineage: dict[str, str] = Field(description="stage -> digest of its record")
    scores: tuple[RegisteredScore, ...] = ()


def register(
    home: Path,
    name: str,
    lineage: Mapping[str, str],
    scores: Sequence[Mapping[str, Any]],
    *,
    created: datetime | None = None,
) -> Version:
    """The version of this lineage: registered now as the next number, unless it was before.

    scores: as in the evaluation's scores.json. Raises RecordError if a version on disk is
    damaged, ResourceError when the disk is full.
    """
    when = (created or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    folder = home / FOLDER / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(MAX_TRIES):
            versions = list_versions(home, name)
            for version in versions:
                if version.lineage == dict(lineage):
                    return version
            version = Version(
                name=name,
                version=versions[-1].version + 1 if versions else 1,
                created=when,
                lineage=dict(lineage),
                scores=tuple(RegisteredScore.model_validate(dict(score)) for score in scores),
            )
            if _publish(folder, version):
                return version
    except OSError as error:
        raise disk_error(error, folder) from error
    raise BusyError(f"{folder} is being written by too many others", do="run the command again")


def list_versions(home: Path, name: str | None = None) -> list[Version]:
    """All versions by name and number; of one model if a name is given.

    Raises RecordError naming a file that is damaged or is not what its place says.
    """
    folders = sorted(_folders(home / FOLDER), key=lambda path: path.name)
    return [
        version
        for folder in folders
        if name in (None, folder.name)
        for version in _read_all(folder)
    ]


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_dir())


def _read_all(folder: Path) -> list[Version]:
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _number(path))]
    versions = []
    for number, path in sorted(found):
        try:
            version = Version.model_validate(read_sealed(path))
        except ValidationError as error:
            raise RecordError(
                f"{path} is not a registered model", found=first_problem(error)
            ) from error
        if (version.name, version.version) != (folder.name, number):
            raise RecordError(
                f"{path} holds another version",
                found=f"{version.name} version {version.version}",
                expected=f"{folder.name} version {number}",
                do="delete the file: it was moved or copied there",
            )
        versions.append(version)
    return versions


def _number(path: Path) -> re.Match[str] | None:
    return FILE.fullmatch(path.name)


def _publish(folder: Path, version: Version) -> bool:
    """Link a complete file to the version's name; False if the number is taken."""
    temporary = folder / f".new-{os.getpid()}-{threading.get_ident()}.json"
    try:
        write_sealed(temporary, version.model_dump(mode="json"))
        _link(temporary, folder / f"v{version.version:04d}.json")
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(folder)
    return True


def _link(temporary: Path, final: Path) -> None:
    """Raises FileExistsError, OSError."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in NO_LINKS_ERRNOS:
            raise
        with exclusive(final.parent, "registering a model"):
            if final.exists():
                raise FileExistsError(final) from None
            os.replace(temporary, final)
