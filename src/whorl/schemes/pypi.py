"""`pypi:name==version/pattern`: wheels of Python packages, fetched by pip.

Only wheels: to look into a source distribution, pip runs its code.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from whorl.core.errors import DataError
from whorl.schemes.archives import read_member, unpack_zip
from whorl.schemes.base import Client, Facts, Wanted, check_is, only_file

__all__ = ["SCHEME"]


@dataclass(frozen=True)
class Pypi:
    name: str = "pypi"
    name_pattern: str = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    separator: str = "=="
    is_partial: bool = False

    def command(self, wanted: Wanted) -> list[str]:
        has_module = importlib.util.find_spec("pip") is not None
        pip = [sys.executable, "-m", "pip"] if has_module else ["pip"]
        version = f"=={wanted.version}" if wanted.version else ""
        flags = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
        return [*pip, "download", *flags, "--dest", ".", f"{wanted.name}{version}"]

    def unpack(self, wanted: Wanted, fetched: Path, into: Path, client: Client) -> Facts:
        skipped = unpack_zip(only_file(fetched, (".whl",)), into)
        texts = [read_member(path) for path in into.glob("*.dist-info/METADATA")]
        if len(texts) != 1:
            raise DataError(f"{wanted.text} is not a wheel", found=f"{len(texts)} METADATA files")
        fields = HeaderParser().parsestr(texts[0])
        name, version = fields.get("Name", ""), fields.get("Version", "")
        check_is(wanted, name, version)
        licence = fields.get("License-Expression") or fields.get("License") or ""
        return Facts(version, (licence.splitlines() or [""])[0].strip(), skipped)


SCHEME = Pypi()
