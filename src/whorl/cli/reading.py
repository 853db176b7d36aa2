"""What was read of the data, mended, refused and passed over: the table and the preview of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whorl.cli.console import ERR, OUT
from whorl.core.errors import DataError, SpecError, WhorlError
from whorl.core.records import Record

if TYPE_CHECKING:
    from whorl.verbs import Session

__all__ = ["look_at", "preview_new", "preview_plan", "print_reading", "reading_of"]

MAX_ROWS = 20  # of the table
COLOURS = {
    "read": "green",
    "refused": "red",
    "dropped": "red",
    "mended": "yellow",
    "passed over": "dim",
}


def print_reading(record: Record) -> None:
    """The table of a record of prepare; nothing of one that an older version made."""
    metrics = record.metrics
    if "reading" not in metrics:
        return
    rows = reading_of(record)
    kept = metrics["train_documents"] + metrics["heldout_documents"]
    files = f"{metrics['read_files']:,} files, " if metrics["read_files"] else ""
    title = f"read {files}{metrics['read_documents']:,} documents, kept {kept:,}"
    _print_table(OUT, title, rows)


def reading_of(record: Record) -> list[dict[str, Any]]:
    """The rows of the table: what, count, reason, example, hint."""
    return [*record.metrics.get("reading", ()), *record.run.get("passed_over", ())]


def preview_new(source: str, field: str, recipe: str) -> str:
    """What prepare would make of a source, from a sample, on stderr; it never fails. Gives what is
    to be done before there is a document in it, as far as a look can tell: "" if nothing is."""
    from whorl.schemes.fetch import parse

    mend = f"mend {source}, or correct data in {recipe} (source, field, options)"
    try:
        is_read = parse(source) is not None or _preview(*_source_of(source, field))
    except WhorlError as error:
        ERR.print(f"note: {error}", markup=False, soft_wrap=True)
        is_of_data = isinstance(error, DataError | SpecError)
        return mend if is_of_data else error.do or "see the note above"
    return "" if is_read else mend


def look_at(source: str, field: str) -> list[dict[str, Any]]:
    """The rows of the table of a sample; none where it cannot be read."""
    from whorl.stages.prepare.preview import preview

    try:
        return preview(*_source_of(source, field)).rows
    except WhorlError:
        return []


def _source_of(source: str, field: str) -> tuple[dict[str, Any], list[Any]]:
    """(fields, sources) of a source that no recipe names yet."""
    from whorl.core.ports import Source
    from whorl.fields.base import find_field, options_of
    from whorl.verbs import home_folder
    from whorl.wiring.data import homes_folders

    kind, apart = find_field(field), homes_folders(home_folder())
    return {field: kind}, [Source(source, field, options=options_of(kind, {}), apart=apart)]


def preview_plan(session: Session) -> None:
    """The same of a recipe's sources, after its plan was made."""
    _preview(session.fields, session.sources)


def _preview(fields: Mapping[str, Any], sources: Sequence[Any]) -> bool:
    """Whether a document was seen, or may be behind what was looked at."""
    from whorl.stages.prepare.preview import preview

    seen = preview(fields, sources)
    if not seen.num_files:
        return True
    more = "" if seen.is_read_out else " and more (as many as a look reads; copies count)"
    title = f"data: {seen.num_documents:,} documents{more} in a look at {seen.num_sampled:,} of "
    _print_table(ERR, f"{title}{seen.num_files:,} files", seen.rows)
    return seen.num_documents > 0 or not seen.is_whole


def _print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        console.print(f"{title}; nothing was refused or passed over", markup=False, soft_wrap=True)
        return
    table = Table("", "", "reason", "first", "note", title=escape(title), title_justify="left")
    for row in rows[:MAX_ROWS]:
        colour, what = COLOURS[row["what"]], row["what"]
        words = [escape(str(row[key])) for key in ("reason", "example", "hint")]
        table.add_row(f"[{colour}]{what}[/{colour}]", f"{row['count']:,}", *words)
    if len(rows) > MAX_ROWS:
        table.add_row(
            "", "", f"and {len(rows) - MAX_ROWS} reasons more (--json lists them)", "", ""
        )
    console.print(table)
