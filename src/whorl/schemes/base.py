"""What a scheme of sources is: how a release is named, fetched by its client and unpacked."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from whorl.core.errors import DataError

__all__ = ["Client", "Facts", "Scheme", "Wanted", "check_is", "only_file", "run_client"]

CLIENT_S = 3600  # a fetch that takes longer is given up

# Runs a command in a folder and gives its standard output. Raises OSError, SubprocessError.
Client = Callable[[Sequence[str], Path], str]


@dataclass(frozen=True)
class Wanted:
    """A source such as pypi:six==1.17.0#1a2b3c4d/*.py, in parts."""

    text: str
    name: str
    version: str | None  # None: whatever the client finds
    digest: str | None  # first hex digits of the BLAKE3 digest of what is fetched
    pattern: str | None  # of files inside


@dataclass(frozen=True)
class Facts:
    """What a fetched release says of itself; licence: "" if it does not say."""

    version: str
    licence: str
    skipped: int = 0  # links and devices, which are never unpacked


class Scheme(Protocol):
    """One kind of registry. Stateless; whorl.schemes.fetch does the rest."""

    name: str  # before the colon
    name_pattern: str  # regular expression of a release's name
    separator: str  # between name and version
    is_partial: bool  # whether only the files of the pattern are fetched

    def command(self, wanted: Wanted) -> list[str]:
        """The client's command; it leaves what it fetches in its working folder."""
        ...

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        """Fill `into` from a folder the command filled, or a person by hand. Raises DataError."""
        ...


def run_client(command: Sequence[str], folder: Path) -> str:
    result = subprocess.run(
        command, cwd=folder, capture_output=True, timeout=CLIENT_S, check=True, text=True
    )
    return result.stdout


def only_file(folder: Path, suffixes: tuple[str, ...]) -> Path:
    """The one archive of a folder. Raises DataError if there is another number of them."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith(suffixes))
    if len(found) != 1:
        raise DataError(
            f"{folder} should hold one archive",
            found=[path.name for path in found] or "none",
            expected=f"one file *{' or *'.join(suffixes)}",
        )
    return found[0]


def check_is(wanted: Wanted, name: str, version: str) -> None:
    """Raises DataError if an archive is of another release; 1.0 and 1.0.0 are one."""
    other_name = _plain(name) != _plain(wanted.name)
    other_version = wanted.version is not None and _short(version) != _short(wanted.version)
    if other_name or other_version:
        raise DataError(
            f"{wanted.text} is not what was fetched",
            found=f"{name} {version}",
            expected=f"{wanted.name} {wanted.version or ''}".strip(),
        )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _short(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version)
