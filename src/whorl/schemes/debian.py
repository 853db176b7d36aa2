"""`debian:package=version/pattern`: packages of Debian and its relatives, fetched by apt-get."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from whorl.schemes.archives import read_member, unpack_tar
from whorl.schemes.base import Client, Facts, Wanted, check_is, only_file

__all__ = ["SCHEME"]


@dataclass(frozen=True)
class Debian:
    name: str = "debian"
    name_pattern: str = r"[a-z0-9][a-z0-9+.-]+"
    separator: str = "="
    is_partial: bool = False

    def command(self, wanted: Wanted) -> list[str]:
        version = f"={wanted.version}" if wanted.version else ""
        return ["apt-get", "download", "-q", f"{wanted.name}{version}"]

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        archive = only_file(fetched, (".deb",))
        fields = {}
        for key in ("Package", "Version"):
            fields[key] = client(["dpkg-deb", "--field", archive.name, key], fetched).strip()
        check_is(wanted, fields["Package"], fields["Version"])
        whole = fetched / "files.tar"
        client(
            ["sh", "-c", 'dpkg-deb --fsys-tarfile "$0" > "$1"', archive.name, whole.name], fetched
        )
        skipped = unpack_tar(whole, into)
        copyright_file = into / "usr" / "share" / "doc" / fields["Package"] / "copyright"
        licences = re.findall(r"^License:\s*(\S.*)$", read_member(copyright_file), re.MULTILINE)
        return Facts(fields["Version"], ", ".join(dict.fromkeys(licences)), skipped)


SCHEME = Debian()
