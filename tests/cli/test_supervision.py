"""`whorl show` of prepared data: the share that is trained, and rows as they are packed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.stages.prepare.support import prepare, write_stories
from tests.stages.prepare.test_supervision import ChatField
from whorl.cli import supervision
from whorl.cli.main import build_app
from whorl.codecs.contract import Tokens
from whorl.core.ports import Source
from whorl.core.records import Record
from whorl.core.rows import RowSet


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    home = tmp_path_factory.mktemp("show") / "home"
    return prepare(home, Source("x", "chat"), fields={"chat": ChatField()})


def printed(monkeypatch: pytest.MonkeyPatch, record: Record, in_colour: bool) -> str:
    out = io.StringIO()
    system = "standard" if in_colour else None
    console = Console(
        file=out, width=200, force_terminal=in_colour, color_system=system, highlight=False
    )
    monkeypatch.setattr(supervision, "OUT", console)
    supervision.print_supervision(supervision.supervision_of(record))
    return out.getvalue()


def test_the_share_and_pieces_are_the_masks(record: Record) -> None:
    found = supervision.supervision_of(record)
    metrics = record.metrics
    assert found["trained_share"] == metrics["trained_tokens"] / metrics["train_tokens"]
    rows, tokens = RowSet.open(record), Tokens.load(record.folder("tokens"))
    assert [row["row"] for row in found["rows"]] == [0, (rows.num_rows - 1) // 2, rows.num_rows - 1]
    for row in found["rows"]:
        ids, mask, _ = (part[row["row"]] for part in vars(rows.read(range(rows.num_rows))).values())
        text = "".join(piece["text"] for piece in row["pieces"] if piece["trained"])
        assert text == tokens.decode(ids[mask].tolist(), skip_special=False)
        used = len(ids) - row["padding_tokens"]
        whole = "".join(piece["text"] for piece in row["pieces"])
        assert whole == tokens.decode(ids[:used].tolist(), skip_special=False)
        assert set(ids[used:]) <= {tokens.contract.pad_id}


def test_the_rest_of_a_document_is_no_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents longer than a row: only the first piece of each is its beginning."""
    (tmp_path / "texts").mkdir()
    for number in range(12):
        text = " ".join(f"{number} and {word}" for word in range(400))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    record = prepare(tmp_path / "home", Source(str(tmp_path / "texts"), "text"))
    rows, bos = RowSet.open(record), Tokens.load(record.folder("tokens")).contract.start_ids[0]
    monkeypatch.setattr(supervision, "NUM_ROWS", rows.num_rows)
    found = supervision.supervision_of(record)["rows"]
    assert len(found) == rows.num_rows
    kinds = []
    for row in found:
        batch = rows.read(np.array([row["row"]]))
        starts = np.flatnonzero(batch.segment_starts[0])
        used = len(batch.ids[0]) - row["padding_tokens"]
        expected = ["document" if batch.ids[0, at] == bos else "rest" for at in starts if at < used]
        told = [piece["begins"] for piece in row["pieces"] if piece["begins"]]
        assert told == expected
        kinds += told
    assert kinds.count("document") == record.metrics["train_documents"] < kinds.count("rest")
    lines = printed(monkeypatch, record, in_colour=False)
    assert lines.count("¶") == kinds.count("document") and lines.count("↪") == kinds.count("rest")
    whole = next(row for row in found if not row["padding_tokens"])
    width = rows.seq_len + 1
    assert f"row {whole['row']}: {whole['trained_tokens']:,} of {width:,} ids trained" in lines


def test_without_colours_marks_say_what_is_trained(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(monkeypatch, record, in_colour=False)
    assert "% of the tokens are trained: between ⟦ and ⟧" in lines and "\x1b" not in lines
    assert "¶<|bos|><|user|>" in lines and "<|assistant|>⟦No.<|end|>⟧" in lines
    assert lines.count("⟦") == lines.count("⟧")


def test_colours_say_it_on_a_terminal(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, record, in_colour=True)
    assert "\x1b[32mNo.<|end|>\x1b[0m" in lines and "⟦" not in lines


def test_show_prints_it(tmp_path: Path) -> None:
    record = prepare(tmp_path, write_stories(tmp_path / "texts", range(30)))
    recipe = record.path.parent.parent.name
    for what in (recipe, record.path.name):
        shown = CliRunner().invoke(build_app(), ["show", what, "--home", str(tmp_path)])
        assert shown.exit_code == 0, shown.output
        assert "% of the tokens are trained" in shown.output and "row 0" in shown.output
        told = CliRunner().invoke(build_app(), ["show", what, "--home", str(tmp_path), "--json"])
        assert len(json.loads(told.stdout)["supervision"]["rows"]) == 3
