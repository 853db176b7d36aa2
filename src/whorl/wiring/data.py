"""A recipe's data, resolved: its fields, its sources, and the digest of what they hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from whorl.core.errors import SpecError
from whorl.core.ports import Field, Source
from whorl.core.sources import SourceIndex
from whorl.spec.load import LoadedRecipe
from whorl.spec.recipe import DataSpec

__all__ = ["digest_of", "fields_of", "homes_folders", "sources_of", "with_sources"]

TEXT_KEY = "text_key"  # an option of the fields of text that has a key of its own in recipes
SOURCES = "sources"  # folder of the home: the index of sources, and what was fetched
Log = Callable[[str], None]


def fields_of(loaded: LoadedRecipe) -> dict[str, Field]:
    """The fields of the recipe's data, by name. Raises SpecError if there is no such field."""
    from whorl.fields.base import find_field

    names = dict.fromkeys(entry.field for entry in loaded.recipe.data)
    return {name: find_field(name) for name in names}


def with_sources(fields: Mapping[str, Field], sources: Sequence[Source]) -> dict[str, Field]:
    """The fields; those that ask for it know which sources their documents are of."""
    found = dict(fields)
    for name, field in fields.items():
        if (told := getattr(field, "with_sources", None)) is not None:
            found[name] = told(tuple(source for source in sources if source.field == name))
    return found


def sources_of(
    loaded: LoadedRecipe, fields: Mapping[str, Field], home: Path, log: Log
) -> tuple[Source, ...]:
    """The recipe's sources; what has to be fetched is fetched now, once. Raises DataError."""
    from whorl.fields.base import options_of
    from whorl.schemes.fetch import fetch

    def here(source: Source) -> Source:
        fetched = fetch(source.source, home / SOURCES, log)
        if fetched is None:
            return source
        return replace(source, source=fetched.source, release=fetched.release)

    found = []
    for entry in loaded.recipe.data:
        options = options_of(fields[entry.field], _given_options(entry))
        source = Source(entry.source, entry.field, entry.share, options)
        source = replace(
            source,
            encoding=entry.encoding or "",
            apart=homes_folders(home),
            folder=str(loaded.folder),
        )
        others = {
            key: tuple(here(replace(source, source=word, encoding="")) for word in words.split())
            for key in getattr(fields[entry.field], "source_options", ())
            if (words := options[key])
        }
        found.append(replace(here(source), others=others))
    return tuple(found)


def _given_options(entry: DataSpec) -> dict[str, str]:
    """With the key of the text, which may stand beside the options. Raises SpecError."""
    if not entry.text_key:
        return entry.options
    if entry.options.get(TEXT_KEY, entry.text_key) != entry.text_key:
        raise SpecError(
            f"data entry {entry.source} names two keys of the text",
            found=f"text_key {entry.text_key}, options.text_key {entry.options[TEXT_KEY]}",
            do="take out one of them",
        )
    return {**entry.options, TEXT_KEY: entry.text_key}


def homes_folders(home: Path) -> tuple[str, ...]:
    """Folders that hold no data but what whorl wrote, links followed.

    A home that is itself a source holds data beside them.
    """
    folders = (home, home / SOURCES, home / "machine")
    return tuple(os.path.realpath(folder) for folder in folders)


def digest_of(
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    home: Path,
    log: Log,
    workers: int | None,
) -> str:
    """The digest of all content; files that did not change since are not read again."""
    from whorl.stages.prepare.facts import data_digest

    return data_digest(fields, sources, workers, SourceIndex(home / SOURCES, log))
