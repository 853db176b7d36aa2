"""Fetched sources: a release once fetched lies below the home and is never fetched again.

<home>/sources/<scheme>/<name>-<version>-<digest>/   the files of a release
<home>/sources/<scheme>/<folder>.files.json          their digests
<home>/sources/<scheme>/<asked>.json                 what a source of a recipe was resolved to
<home>/sources/<scheme>/<asked>.byhand/              put here what a person fetched elsewhere

<asked> is the name, the version and a digest of all that was asked for.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from whorl.core.clutter import is_clutter
from whorl.core.digests import digest_file, digest_value, read_sealed, write_sealed
from whorl.core.errors import DataError, SpecError
from whorl.core.scratch import hold_scratch, is_abandoned
from whorl.core.sources import SourceIndex
from whorl.schemes import debian, debian_index, hub, npm, pypi
from whorl.schemes.base import Client, Scheme, Wanted, run_client

__all__ = ["SCHEMES", "Fetched", "fetch", "parse"]

SCHEMES: dict[str, Scheme] = {
    module.SCHEME.name: module.SCHEME for module in (pypi, npm, debian, debian_index, hub)
}
VERSION = r"[A-Za-z0-9][A-Za-z0-9._+:~!-]*"
DIGEST_CHARS = 16  # of the digest, in the name of a folder
SEAL = ".files.json"


@dataclass(frozen=True)
class Fetched:
    """A release on disk. source: absolute path or glob to read, as a recipe's own paths start at
    the recipe's folder; release: what a manifest says of it."""

    source: str
    release: Mapping[str, Any]


def parse(text: str) -> tuple[Scheme, Wanted] | None:
    """The scheme of a source and what it names; None if it has none of ours. Raises SpecError."""
    scheme = SCHEMES.get(text.partition(":")[0])
    if scheme is None or ":" not in text:
        return None
    found = re.fullmatch(
        f"({scheme.name_pattern})(?:{scheme.separator}({VERSION}))?(?:#([0-9a-f]{{8,64}}))?(?:/(.+))?",
        text.partition(":")[2],
    )
    inside = PurePosixPath(found[4] or "") if found else None
    if found is None or inside is None or inside.is_absolute() or ".." in inside.parts:
        raise SpecError(
            f"data.source {text} cannot be read",
            expected=f"{scheme.name}:name{scheme.separator}version, and perhaps /pattern",
        )
    return scheme, Wanted(text, found[1], found[2], found[3], found[4])


def fetch(
    text: str,
    folder: Path,
    log: Callable[[str], None] = lambda line: None,
    client: Client = run_client,
) -> Fetched | None:
    """The release a source names, fetched below `folder` if it is not there yet.

    None: the source has none of our schemes. Raises SpecError, DataError (with the command to
    fetch it by hand, and where to put it), RecordError if what it was resolved to is damaged.
    """
    parsed = parse(text)
    if parsed is None:
        return None
    scheme, wanted = parsed
    folder = folder.absolute()
    asked = _asked(scheme, wanted, folder / scheme.name)
    note = asked.with_name(f"{asked.name}.json")
    known = read_sealed(note) if note.exists() else {}
    place = folder / scheme.name / str(known.get("folder", "unknown"))
    if not place.is_dir():
        known = _fetched(scheme, wanted, asked, known, log, client)
        place = folder / scheme.name / known["folder"]
    _verify(place, log)
    release = {key: value for key, value in known.items() if key != "folder"}
    if wanted.digest and not release["digest"].startswith(wanted.digest):
        raise DataError(
            f"{text} has another digest", found=release["digest"][:64], expected=wanted.digest
        )
    if wanted.version is None:
        pinned = f"{scheme.name}:{wanted.name}{scheme.separator}{release['version']}"
        log(f"{text} is not pinned: write {pinned} to stay with what was found")
    inside = os.path.join(glob.escape(str(place)), wanted.pattern) if wanted.pattern else str(place)
    return Fetched(inside, release)


def _asked(scheme: Scheme, wanted: Wanted, folder: Path) -> Path:
    """A name of its own for each thing that can be asked of the client."""
    part = wanted.pattern if scheme.is_partial else None
    digest = digest_value([wanted.name, wanted.version, part])[:8]
    name = f"{wanted.name.replace('/', '--')}-{wanted.version or 'unpinned'}"
    return folder / f"{name}-{digest}"


def _fetched(
    scheme: Scheme,
    wanted: Wanted,
    asked: Path,
    known: Mapping[str, Any],
    log: Callable[[str], None],
    client: Client,
) -> dict[str, Any]:
    """Fetch, unpack and publish a release; gives what its note says."""
    asked.parent.mkdir(parents=True, exist_ok=True)
    for path in asked.parent.glob(f"{asked.name}.tmp-*"):
        is_abandoned(path, remove=True)
    scratch, descriptor = hold_scratch(asked)
    try:
        files, by_hand = scratch / "files", asked.with_name(f"{asked.name}.byhand")
        files.mkdir()
        if by_hand.is_dir() and any(by_hand.iterdir()):
            shutil.copytree(by_hand, scratch / "fetched")
        else:
            (scratch / "fetched").mkdir()
            log(f"fetching {wanted.text}")
            _run(scheme, wanted, scratch / "fetched", by_hand, client)
        digest = _digest(scratch / "fetched")
        if known and known["digest"] != digest:
            raise DataError(
                f"{wanted.text} is not what it was", found=digest, expected=known["digest"]
            )
        facts = scheme.unpack(wanted, scratch / "fetched", files, client)
        final = f"{wanted.name.replace('/', '--')}-{facts.version}-{digest[:DIGEST_CHARS]}"
        if not asked.with_name(final).exists():
            found = {name: digest_file(files / name) for name in _names(files)}
            write_sealed(asked.with_name(f"{final}{SEAL}"), {"files": found})
            files.rename(asked.with_name(final))
        value = {
            **{"scheme": scheme.name, "name": wanted.name, "version": facts.version},
            **{"digest": digest, "licence": facts.licence, "links_skipped": facts.skipped},
            "folder": final,
        }
        write_sealed(asked.with_name(f"{asked.name}.json"), value)
        return value
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"{wanted.text} cannot be unpacked", found=error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    """All that is no folder, relative to `folder`."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in paths)


def _verify(place: Path, log: Callable[[str], None]) -> None:
    """Raises DataError naming a file of a release that is not as it was unpacked.

    Files are read again only where the index of sources says that they changed.
    """
    seal = place.with_name(f"{place.name}{SEAL}")
    sealed: dict[str, str] = read_sealed(seal)["files"]
    names = [name for name in _names(place) if name in sealed or not is_clutter(name)]
    paths = {name: str(place / name) for name in names}
    index = SourceIndex(place.parent.parent, log)
    found = index.digests(f"release {place}", paths.values(), workers=1)
    for name in sorted({*names, *sealed}):
        if name not in paths or found[paths[name]] != sealed.get(name):
            missing, added = name not in paths, name not in sealed
            raise DataError(
                f"{place / name} is not as it was fetched",
                found="no such file" if missing else "a new file" if added else "another content",
                do=f"delete {place} to have it fetched again",
            )


def _run(scheme: Scheme, wanted: Wanted, folder: Path, by_hand: Path, client: Client) -> None:
    """Run the client. Raises DataError that says how to do without."""
    command = scheme.command(wanted)
    try:
        client(command, folder)
    except FileNotFoundError:
        found = f"{command[0]} is not installed"
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr or error.stdout or "").strip().splitlines()
        found = lines[-1] if lines else f"{command[0]} ended with {error.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        found = str(error)
    else:
        return
    shown = ["python", *command[1:]] if command[0] == sys.executable else command
    shown[0] = os.path.basename(shown[0])
    raise DataError(
        f"cannot fetch {wanted.text}",
        found=found,
        do=f"run `{shlex.join(shown)}` where there is a network, put what it leaves into "
        f"{by_hand} and run again",
    )


def _digest(folder: Path) -> str:
    """Of the one archive, or of names and content of several files."""
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and hub.CACHE not in path.parts
    )
    if len(paths) == 1:
        return digest_file(paths[0])
    return digest_value([[str(path.relative_to(folder)), digest_file(path)] for path in paths])
