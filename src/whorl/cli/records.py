"""`whorl ls`, `show`, `verify`, `gc`: the records on disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.cli.reading import print_reading, reading_of
from whorl.cli.report import print_plan, print_report
from whorl.cli.supervision import print_supervision, supervision_of
from whorl.core.disk import disk_error
from whorl.core.errors import RecordError, SpecError
from whorl.core.home import home_folder, strangers
from whorl.core.lock import is_held
from whorl.core.records import MANIFEST, Record, RecordStore
from whorl.core.removal import remove_record, remove_run_folder
from whorl.core.scratch import is_abandoned
from whorl.core.units import format_bytes
from whorl.stages.improve.report import STAGES, report_of

__all__ = ["register"]

KINDS = (*STAGES, "ladder")  # all that leave records
MAX_FOREIGN = 20  # shown


def register(app: typer.Typer) -> None:
    app.command("ls", epilog="Example: `whorl ls`")(ls_command)
    app.command("show", epilog="Example: `whorl show python-stdlib`")(show_command)
    app.command("verify", epilog="Example: `whorl verify`")(verify_command)
    app.command("gc", epilog="Example: `whorl gc --yes`")(gc_command)


def _folders(home: Path) -> Iterator[tuple[str, str, Path]]:
    """(recipe, stage, record folder) of every finished record, oldest first within a stage."""
    for recipe in _recipes(home):
        for stage in KINDS:
            for path in RecordStore(home, recipe).all(stage):
                yield recipe, stage, path


def _recipes(home: Path) -> list[str]:
    """Names that may be recipes': all folders."""
    return sorted(path.name for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _size_bytes(path: Path) -> int:
    """Of all files below; what goes meanwhile, or may not be seen, counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def ls_command(home: Home = None, json: Json = False, debug: Debug = False) -> None:
    """List the records of every recipe."""
    rows = []
    for recipe, stage, path in _folders(home_folder(home)):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime((path / MANIFEST).stat().st_mtime))
        row = {"recipe": recipe, "stage": stage, "digest": path.name, "written": when}
        rows.append({**row, "size_bytes": _size_bytes(path), "path": str(path)})
    if json:
        print_json(rows)
        return
    if not rows:
        ERR.print(f"no records in {home_folder(home)}; `whorl up RECIPE` makes some", markup=False)
        return
    table = Table("recipe", "stage", "record", "written", "size")
    for entry in rows:
        size = format_bytes(float(str(entry["size_bytes"])))
        digest = str(entry["digest"])[:12]
        table.add_row(
            str(entry["recipe"]), str(entry["stage"]), digest, str(entry["written"]), size
        )
    OUT.print(table)


def show_command(
    what: Annotated[
        str, typer.Argument(help="A recipe's name, or the start of a record's digest.")
    ],
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the report of a recipe's newest records, or one record.

    Of prepared data it tells which share of the tokens is trained, and prints three rows as they
    are packed: what is trained is green, or stands between ⟦ and ⟧ where there are no colours, and
    each ¶ begins a document, ↪ the rest of one that the row before had no room for. A model learns
    to write the trained text alone.
    """
    root = home_folder(home)
    found = list(_folders(root))
    matching = [path for _, _, path in found if len(what) >= 4 and path.name.startswith(what)]
    if matching:
        record = Record.load(matching[-1])
        record.verify()
        _show_record(record, json)
    elif what in {recipe for recipe, _, _ in found}:
        report = report_of(root, what)
        prepared = RecordStore(root, what).newest("prepare")
        supervision = None if prepared is None else supervision_of(prepared)
        if json:
            reading = None if prepared is None else reading_of(prepared)
            print_json({**report, "supervision": supervision, "reading": reading})
            return
        print_report(report)
        if prepared is not None:
            print_reading(prepared)
        elif (planned := RecordStore(root, what).newest("plan")) is not None:  # what there is
            print_plan(planned)
        if supervision is not None:
            print_supervision(supervision)
    else:
        names = sorted({recipe for recipe, _, _ in found})
        raise SpecError(
            f"{what} is neither a recipe nor a record in {root}",
            expected=", ".join(names) or "none yet",
            do="whorl ls lists the records, whorl models the versions",
        )


def _show_record(record: Record, json: bool) -> None:
    value: dict[str, Any] = {
        "path": str(record.path),
        "stage": record.stage,
        "config": record.config,
        "inputs": record.inputs,
        "metrics": record.metrics,
        "files": {name: entry.size_bytes for name, entry in record.files.items()},
        "run": record.run,
    }
    supervision = supervision_of(record) if record.stage == "prepare" else None
    if json:
        print_json(value if supervision is None else {**value, "supervision": supervision})
        return
    for key in ("path", "stage", "inputs", "config", "metrics", "run"):
        OUT.print(f"[bold]{key}[/bold]")
        OUT.print_json(data=value[key], default=str)
    table = Table("file", "size")
    for name, size_bytes in value["files"].items():
        table.add_row(name, format_bytes(size_bytes))
    OUT.print(table)
    print_reading(record)
    if supervision is not None:
        print_supervision(supervision)


def verify_command(home: Home = None, json: Json = False, debug: Debug = False) -> None:
    """Check every byte of every record against its digest. Exit code 5 if any is damaged.

    Files and folders of the home that whorl did not write are named, and left alone.
    """
    root = home_folder(home)
    good, damaged = 0, []
    for _, _, path in _folders(root):
        try:
            record = Record.load(path)
            record.verify()
            good += 1
        except RecordError as error:
            damaged.append({"path": str(path), "error": str(error)})
    foreign = _foreign(root)
    if json:
        print_json({"good": good, "damaged": damaged, "foreign": foreign})
    else:
        OUT.print(f"{good} records are whole, {len(damaged)} damaged")
        for item in damaged:
            OUT.print(f"  {item['error']}", markup=False, soft_wrap=True)
        _print_foreign(foreign)
    if damaged:
        raise RecordError(
            f"{len(damaged)} damaged records", do="delete their folders and run `whorl up` again"
        )


def _foreign(root: Path) -> list[str]:
    return [str(path) for path in strangers(root, KINDS)]


def _print_foreign(foreign: list[str]) -> None:
    if foreign:
        OUT.print("not written by whorl, left alone:")
    for name in foreign[:MAX_FOREIGN]:
        OUT.print(f"  {name}", markup=False, soft_wrap=True)
    if len(foreign) > MAX_FOREIGN:
        OUT.print(f"  and {len(foreign) - MAX_FOREIGN:,} more; --json names all")


def gc_command(
    keep: Annotated[int, typer.Option(help="Newest records to keep per stage.", min=1)] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only list.")] = False,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete older records, finished run folders (checkpoints) and left-over temporary folders.

    Only what whorl wrote is deleted: a record's own files, by its manifest. Everything else in the
    home is named, and left alone.
    """
    root = home_folder(home)
    doomed = list(_doomed(root, keep))
    sizes = {str(path): _size_bytes(path) for path, _ in doomed}
    if yes:
        for path, remove in doomed:
            try:
                remove()
            except OSError as error:
                raise disk_error(error, path) from error
    foreign = _foreign(root)
    if json:
        print_json({"deleted": yes, "folders": sizes, "foreign": foreign})
        return
    for name, size_bytes in sizes.items():
        OUT.print(f"{format_bytes(size_bytes):>12}  {name}", markup=False, soft_wrap=True)
    verb = "deleted" if yes else "would delete (add --yes)"
    OUT.print(f"{verb} {len(doomed)} folders, {format_bytes(sum(sizes.values()))}")
    _print_foreign(foreign)


def _doomed(root: Path, keep: int) -> Iterator[tuple[Path, Callable[[], object]]]:
    """(folder, what deletes it) of everything that is no longer needed."""
    used = _inputs_of_kept(root, keep)
    for recipe in _recipes(root):
        store = RecordStore(root, recipe)
        for stage in STAGES:
            for path in list(store.all(stage))[:-keep]:
                if path.name not in used and (record := _whole_manifest(path)) is not None:
                    yield path, partial(remove_record, record)
            for path in sorted(store.folder(stage).glob("*.run")):
                if _whole_manifest(path.with_suffix("")) is not None and not is_held(path):
                    yield path, partial(remove_run_folder, path)
            for path in store.leftovers(stage):
                yield path, partial(is_abandoned, path, remove=True)


def _whole_manifest(path: Path) -> Record | None:
    """The record there; None where there is none, or its manifest does not say what is ours."""
    try:
        return Record.load(path)
    except RecordError:
        return None


def _inputs_of_kept(root: Path, keep: int) -> set[str]:
    """Digests that a kept record or a registered model was made from."""
    from whorl.stages.improve.registry import list_versions

    used = {digest for version in list_versions(root) for digest in version.lineage.values()}
    for recipe in _recipes(root):
        for stage in KINDS:
            for path in list(RecordStore(root, recipe).all(stage))[-keep:]:
                used |= set(Record.load(path).inputs.values())
    return used
