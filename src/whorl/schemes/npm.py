"""`npm:name@version/pattern`: packages of JavaScript's registry, fetched by npm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from whorl.core.errors import DataError
from whorl.schemes.archives import read_member, unpack_tar
from whorl.schemes.base import Client, Facts, Wanted, check_is, only_file

__all__ = ["SCHEME"]


@dataclass(frozen=True)
class Npm:
    name: str = "npm"
    name_pattern: str = r"(?:@[a-z0-9][a-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*"
    separator: str = "@"
    is_partial: bool = False

    def command(self, wanted: Wanted) -> list[str]:
        version = f"@{wanted.version}" if wanted.version else ""
        return ["npm", "pack", "--ignore-scripts", "--silent", f"{wanted.name}{version}"]

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        skipped = unpack_tar(only_file(fetched, (".tgz",)), into, strip=1)
        try:
            package = json.loads(read_member(into / "package.json"))
            name, version = str(package["name"]), str(package["version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{wanted.text} has no package.json", found=error) from error
        check_is(wanted, name, version)
        licence = package.get("license", "")
        return Facts(version, licence if isinstance(licence, str) else "", skipped)


SCHEME = Npm()
