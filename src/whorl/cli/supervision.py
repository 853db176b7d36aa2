"""What of the prepared data is trained: the share, and a few rows as they are packed."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.panel import Panel
from rich.text import Text

from whorl.cli.console import OUT
from whorl.cli.samples import literal_text
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import answer_in_words
from whorl.core.records import Record
from whorl.core.rows import RowBatch, RowSet

__all__ = ["print_supervision", "supervision_of"]

NUM_ROWS = 3
MAX_CHARS = 2_000  # shown of a row
MARKS = ("⟦", "⟧")  # around trained text where there are no colours
BORDERS = {"document": "¶", "rest": "↪"}  # what begins there; the rest repeats one id for context


def supervision_of(record: Record) -> dict[str, Any]:
    """trained_share: of the training tokens; rows: a few, as pieces of text with their marks.

    Raises RecordError if rows or tokens are damaged.
    """
    tokens, rows = Tokens.load(record.folder("tokens")), RowSet.open(record)
    numbers = np.unique(np.linspace(0, rows.num_rows - 1, NUM_ROWS).astype(np.int64))
    batch = rows.read(numbers)
    padding = batch.is_padding(tokens.contract.pad_id)
    shown = [
        {
            "row": int(number),
            "trained_tokens": int(batch.loss_mask[place].sum()),
            "padding_tokens": int(padding[place].sum()),
            "pieces": _pieces(batch, place, int((~padding[place]).sum()), tokens),
        }
        for place, number in enumerate(numbers)
    ]
    share = rows.index.trained_tokens / max(1, record.metrics["train_tokens"])
    return {"trained_share": share, "seq_len": rows.seq_len, "rows": shown}


def _pieces(batch: RowBatch, place: int, count: int, tokens: Tokens) -> list[dict[str, Any]]:
    """Runs of ids of one kind: their text, whether trained, and what begins there, if anything:
    a "document", or the "rest" of one that the row before had no room for."""
    pieces: list[dict[str, Any]] = []
    stream = tokens.decode_stream(skip_special=False, continues=True)
    for at in range(count):
        trained, begins = bool(batch.loss_mask[place, at]), bool(batch.segment_starts[place, at])
        if begins and pieces:
            pieces[-1]["text"] += stream.finish()
        if begins or not pieces or pieces[-1]["trained"] != trained:
            what = _beginning(batch, place, at, tokens) if begins else None
            pieces.append({"text": "", "trained": trained, "begins": what})
        pieces[-1]["text"] += stream.push([int(batch.ids[place, at])])
    pieces[-1]["text"] += stream.finish()
    return [{**piece, "text": answer_in_words(tokens, piece["text"])} for piece in pieces]


def _beginning(batch: RowBatch, place: int, at: int, tokens: Tokens) -> str:
    """Only a row's first document can be the rest of one: it lacks the ids that begin all."""
    starts = tokens.contract.start_ids
    first = tuple(batch.ids[place, at : at + len(starts)].tolist())
    return "rest" if at == 0 and first != tuple(starts) else "document"


def print_supervision(supervision: dict[str, Any]) -> None:
    """The share, and each row with its trained text in green, or between marks."""
    in_colour = OUT.is_terminal and not OUT.no_color
    how = "green" if in_colour else f"between {MARKS[0]} and {MARKS[1]}"
    OUT.print(f"{supervision['trained_share']:.1%} of the tokens are trained: {how} below")
    for row in supervision["rows"]:
        num_ids = supervision["seq_len"] + 1  # the first is never a target
        title = f"row {row['row']}: {row['trained_tokens']:,} of {num_ids:,} ids trained"
        if row["padding_tokens"]:
            title += f", {row['padding_tokens']:,} padding"
        shown = Text()
        for piece in row["pieces"]:
            shown.append(BORDERS.get(piece["begins"], ""), "bold blue")
            shown.append_text(_styled(piece, in_colour))
        num_left = len(shown) - MAX_CHARS
        if num_left > 0:
            shown.truncate(MAX_CHARS)
            shown.append(f" … {num_left:,} characters more")
        OUT.print(Panel(shown, title=Text(title), title_align="left"))


def _styled(piece: dict[str, Any], in_colour: bool) -> Text:
    if not piece["trained"]:
        return literal_text(piece["text"], "dim")
    if in_colour:
        return literal_text(piece["text"], "green")
    return literal_text(f"{MARKS[0]}{piece['text']}{MARKS[1]}")
