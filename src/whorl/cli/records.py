"""`whorl ls`, `show`, `verify`, `gc`: the records on disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.cli.reading import print_reading, reading_of
from whorl.cli.report import print_report
from whorl.cli.supervision import print_supervision, supervision_of
from whorl.core.errors import BusyError, RecordError, SpecError
from whorl.core.lock import exclusive
from whorl.core.records import MANIFEST, Record, RecordStore
from whorl.core.units import format_bytes
from whorl.stages.improve.report import STAGES, report_of
from whorl.verbs import home_folder

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("ls", epilog="Example: `whorl ls`")(ls_command)
    app.command("show", epilog="Example: `whorl show python-stdlib`")(show_command)
    app.command("verify", epilog="Example: `whorl verify`")(verify_command)
    app.command("gc", epilog="Example: `whorl gc --yes`")(gc_command)


def _folders(home: Path) -> Iterator[tuple[str, str, Path]]:
    """(recipe, stage, record folder) of every finished record, oldest first within a stage."""
    for recipe in sorted(path.name for path in home.iterdir()) if home.is_dir() else ():
        for stage in STAGES:
            for path in RecordStore(home, recipe).all(stage):
                yield recipe, stage, path


def _size_bytes(path: Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


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
    each ¶ begins a document. A model learns to write the trained text alone.
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
        if supervision is not None:
            print_supervision(supervision)
    else:
        names = sorted({recipe for recipe, _, _ in found})
        raise SpecError(f"{what} is neither a recipe nor a record in {root}", expected=names)


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
    """Check every byte of every record against its digest. Exit code 5 if any is damaged."""
    good, damaged = 0, []
    for _, _, path in _folders(home_folder(home)):
        try:
            Record.load(path).verify()
            good += 1
        except RecordError as error:
            damaged.append({"path": str(path), "error": str(error)})
    if json:
        print_json({"good": good, "damaged": damaged})
    else:
        OUT.print(f"{good} records are whole, {len(damaged)} damaged")
        for item in damaged:
            OUT.print(f"  {item['error']}", markup=False, soft_wrap=True)
    if damaged:
        raise RecordError(
            f"{len(damaged)} damaged records", do="delete their folders and run `whorl up` again"
        )


def gc_command(
    keep: Annotated[int, typer.Option(help="Newest records to keep per stage.", min=1)] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only list.")] = False,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete older records, finished run folders (checkpoints) and left-over temporary folders."""
    root = home_folder(home)
    doomed = list(_doomed(root, keep))
    sizes = {str(path): _size_bytes(path) for path in doomed}
    if yes:
        for path in doomed:
            shutil.rmtree(path)
    if json:
        print_json({"deleted": yes, "folders": sizes})
        return
    for name, size_bytes in sizes.items():
        OUT.print(f"{format_bytes(size_bytes):>12}  {name}", markup=False, soft_wrap=True)
    verb = "deleted" if yes else "would delete (add --yes)"
    OUT.print(f"{verb} {len(doomed)} folders, {format_bytes(sum(sizes.values()))}")


def _doomed(root: Path, keep: int) -> Iterator[Path]:
    used = _inputs_of_kept(root, keep)
    for recipe in sorted(path.name for path in root.iterdir()) if root.is_dir() else ():
        store = RecordStore(root, recipe)
        for stage in STAGES:
            finished = list(store.all(stage))
            yield from (path for path in finished[:-keep] if path.name not in used)
            for path in sorted(store.folder(stage).glob("*.run")):
                if (path.with_suffix("") / MANIFEST).exists() and not _is_held(path):
                    yield path
            yield from store.leftovers(stage)


def _is_held(run_folder: Path) -> bool:
    try:
        with exclusive(run_folder, "whorl gc"):
            return False
    except BusyError:
        return True


def _inputs_of_kept(root: Path, keep: int) -> set[str]:
    """Digests that a kept record or a registered model was made from."""
    from whorl.stages.improve.registry import list_versions

    used = {digest for version in list_versions(root) for digest in version.lineage.values()}
    for recipe in {recipe for recipe, _, _ in _folders(root)}:
        for stage in STAGES:
            for path in list(RecordStore(root, recipe).all(stage))[-keep:]:
                used |= set(Record.load(path).inputs.values())
    return used
