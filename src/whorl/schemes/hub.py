"""`hf:owner/name@revision/pattern`: data sets of the Hugging Face hub, fetched by its `hf`.

Only the files of the pattern are fetched, and the README, which says the licence. The version is
the commit that the client found.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from whorl.core.errors import DataError
from whorl.schemes.archives import read_member
from whorl.schemes.base import Client, Facts, Wanted

__all__ = ["SCHEME"]

CACHE = ".cache"  # where the client notes commits, below the folder it fills


@dataclass(frozen=True)
class Hub:
    name: str = "hf"
    name_pattern: str = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
    separator: str = "@"
    is_partial: bool = True

    def command(self, wanted: Wanted) -> list[str]:
        beside = Path(sys.executable).with_name("hf")
        client = str(beside) if beside.exists() else "hf"
        command = [client, "download", "--repo-type", "dataset", wanted.name, "--local-dir", "."]
        if wanted.version:
            command += ["--revision", wanted.version]
        if wanted.pattern:
            command += ["--include", wanted.pattern, "--include", "README.md"]
        return command

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        notes = sorted((fetched / CACHE).rglob("*.metadata"))
        commits = {read_member(note).partition("\n")[0].strip() for note in notes}
        if len(commits) > 1:
            raise DataError(f"{wanted.text} was fetched of several commits", found=sorted(commits))
        commit = next(iter(commits), "")
        is_commit = wanted.version is not None and re.fullmatch(r"[0-9a-f]{40}", wanted.version)
        if is_commit and commit not in ("", wanted.version):
            raise DataError(
                f"{wanted.text} is not what was fetched", found=commit, expected=wanted.version
            )
        skipped = 0
        for path in sorted(fetched.rglob("*")):
            name = path.relative_to(fetched)
            if path.is_symlink():
                skipped += 1
            elif path.is_file() and name.parts[0] != CACHE:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, into / name)
        head = re.match(r"---\n(.*?)\n---", read_member(into / "README.md"), re.DOTALL)
        licence = re.search(r"^license:\s*(\S+)", head[1] if head else "", re.MULTILINE)
        version = commit or wanted.version or "unknown"
        return Facts(version, licence[1] if licence else "", skipped)


SCHEME = Hub()
