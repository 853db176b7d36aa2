"""Chats in rows: whole, as transformers renders them; preferences side by side."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.stages.prepare.support import FIELDS, prepare, story
from tests.stages.prepare.test_run import check_sums
from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.errors import DataError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Document, Part, Source
from whorl.core.records import Record, RecordStore
from whorl.core.rows import RowSet
from whorl.fields.chat import FIELD
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.pack import best_fit
from whorl.stages.prepare.run import run

Ids = NDArray[np.int64]


def asked(number: int, sentences: int = 1) -> dict[str, str]:
    return {"role": "user", "content": story(number, sentences)}


def answered(number: int) -> dict[str, str]:
    return {"role": "assistant", "content": story(number + 1000, 1)}


def prepared(tmp_path: Path, rows: list[Any], **options: Any) -> Record:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(str(path), "chat", options=FIELD.options)
    fields = {**FIELDS, "chat": FIELD}
    return prepare(tmp_path / "home", source, fields=fields, heldout_share=0.2, **options)


def segments(record: Record, rows: RowSet) -> list[list[tuple[Ids, NDArray[np.bool_]]]]:
    """Of each row its segments without padding: ids and what is trained of them."""
    pad_id = Tokens.load(record.folder("tokens")).contract.pad_id
    batch = rows.read(np.arange(rows.num_rows))
    padding = batch.is_padding(pad_id)
    found = []
    for row in range(rows.num_rows):
        starts = [*np.flatnonzero(batch.segment_starts[row] & ~padding[row]).tolist()]
        ends = [*starts[1:], int((~padding[row]).sum())]
        found.append(
            [
                (batch.ids[row, a:b], batch.loss_mask[row, a:b])
                for a, b in zip(starts, ends, strict=True)
            ]
        )
    return found


def said(tokens: Tokens, ids: Ids, mask: NDArray[np.bool_]) -> str:
    return tokens.decode(ids[mask].tolist(), skip_special=False)


def test_chats_stand_whole_in_rows_and_those_too_long_are_counted(tmp_path: Path) -> None:
    chats = [{"messages": [asked(n), answered(n)]} for n in range(60)]
    long = [{"messages": [asked(100 + n, 40), answered(100 + n)]} for n in range(3)]
    record = prepared(tmp_path, [*chats, *long])
    check_sums(record)
    tokens = Tokens.load(record.folder("tokens"))
    whole = {
        tuple(tokens.encode_chat(chat)[0].tolist()): chat["messages"][1]["content"]
        for chat in chats
    }
    seen = 0
    for row in segments(record, RowSet.open(record)):
        for ids, mask in row:
            assert said(tokens, ids, mask) == whole[tuple(ids.tolist())] + "<|end|>"
            seen += 1
    assert seen == record.metrics["train_documents"]
    assert seen + record.metrics["heldout_documents"] == len(chats)
    longest = max(len(tokens.encode_chat(chat)[0]) for chat in long)
    (told,) = [row for row in record.metrics["reading"] if row["what"] == "refused"]
    assert told["reason"] == "conversation longer than a row" and told["count"] == len(long)
    assert told["hint"] == f"train.seq_len={longest - 1} would keep all of them"
    assert told["example"].startswith("rows.jsonl@")
    (read,) = [row for row in record.metrics["reading"] if row["what"] == "read"]
    assert (read["reason"], read["count"]) == ("OpenAI messages", 63)
    again = prepared(tmp_path / "again", [*chats, *long], seq_len=longest - 1)
    assert again.metrics["dropped"] == {}


def pairs(count: int) -> list[dict[str, Any]]:
    """With an answer in the prompt, which is none to learn."""
    before = [asked(500), answered(500)]
    return [
        {
            "prompt": [*before, asked(n)],
            "chosen": [answered(n)],
            "rejected": [{"role": "assistant", "content": "I do not know."}],
        }
        for n in range(count)
    ]


def test_preferences_stand_side_by_side(tmp_path: Path) -> None:
    rows = pairs(40)
    plain = [{"messages": [asked(900 + n), answered(900 + n)]} for n in range(4)]
    long = [{"prompt": story(7, 40), "chosen": "a", "rejected": "b"}]
    record = prepared(tmp_path, [*rows, *plain, *long], pairs=True, seq_len=255)
    assert record.metrics["train_documents"] + record.metrics["heldout_documents"] == len(rows)
    assert record.metrics["dropped"] == {
        "no preference pair": 4,
        "conversation longer than a row": 1,
    }
    tokens = Tokens.load(record.folder("tokens"))
    better = {row["chosen"][0]["content"] for row in rows}
    count = 0
    for row in [*segments(record, RowSet.open(record)), *segments(record, RowSet.heldout(record))]:
        assert len(row) % 2 == 0, "a pair is never cut"
        for (good, is_good), (bad, is_bad) in zip(row[::2], row[1::2], strict=True):
            assert said(tokens, good, is_good).removesuffix("<|end|>") in better
            assert said(tokens, bad, is_bad) == "I do not know.<|end|>"
            prompt = int(np.flatnonzero(is_good)[0])
            assert prompt == int(np.flatnonzero(is_bad)[0])
            assert good[:prompt].tolist() == bad[:prompt].tolist()
            count += 1
    assert count == len(rows)
    documents = HeldoutDocuments.open(record)
    for number in range(len(documents)):
        ids, mask = documents.ids(number), documents.mask(number)
        assert tokens.decode(ids[mask].tolist()) in better, "quality is that of the chosen answer"
        assert documents.num_bytes(number) == len(tokens.decode(ids[mask].tolist()).encode())


def test_without_pairs_the_chosen_answer_is_learned_and_that_is_told(tmp_path: Path) -> None:
    rows = pairs(20)
    record = prepared(tmp_path, rows, seq_len=255)
    check_sums(record)
    tokens = Tokens.load(record.folder("tokens"))
    better = {row["chosen"][0]["content"] + "<|end|>" for row in rows}
    found = [s for row in segments(record, RowSet.open(record)) for s in row]
    assert all(said(tokens, ids, mask) in better for ids, mask in found)
    (told,) = [row for row in record.metrics["reading"] if row["what"] == "mended"]
    assert told["count"] == 20 and "only the chosen answer" in told["reason"]


@pytest.mark.parametrize("untrained", [[], [0], [1], [0, 2]])
def test_turns_may_be_context_only(tmp_path: Path, untrained: list[int]) -> None:
    turns = [message for n in range(3) for message in (asked(n), answered(n))]
    record = prepared(tmp_path, [{"messages": turns}, {"messages": turns[:2]}], seq_len=255)
    tokens = Tokens.load(record.folder("tokens"))
    chat = {"messages": turns, "untrained": untrained}
    ((ids, mask),) = tokens.encode_segments(Document("x", (Part("chat", chat),)))
    assert ids.tolist() == tokens.encode_chat({"messages": turns})[0].tolist()
    expected = [turns[2 * n + 1]["content"] + "<|end|>" for n in range(3) if n not in untrained]
    assert said(tokens, ids, mask) == "".join(expected)


WITH_TOOLS = """{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{% generation %}
{{- m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|end|>
{%- endgeneration %}{% endfor %}"""


def test_tools_that_a_template_leaves_out_are_told(tmp_path: Path) -> None:
    """Not half a chat: what the assistant called would be missing in what is learned."""
    own = Tokens.load(prepared(tmp_path, pairs(6), seq_len=255).folder("tokens"))
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"a": 1}}}
    turns = [asked(1), {"role": "assistant", "content": "Wait.", "tool_calls": [call]}]
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    for chat, what in (
        ({"messages": turns}, "tool calls"),
        ({"messages": [asked(1), answered(1)], "tools": [tool]}, "tools"),
    ):
        with pytest.raises(DataError, match=f"the chat template leaves {what} out"):
            own.encode_chat(chat)
    template = own.contract.model_copy(update={"chat_template": WITH_TOOLS})
    ids, mask = Tokens(template, own.codecs).encode_chat({"messages": turns, "tools": [tool]})
    assert '"look_up"' in said(own, ids, mask) and "Wait." in said(own, ids, mask)


def test_a_base_without_a_template_is_told_at_once(tmp_path: Path) -> None:
    rows = [{"messages": [asked(n), answered(n)]} for n in range(4)]
    own = Tokens.load(prepared(tmp_path, rows).folder("tokens"))
    without = own.contract.model_copy(update={"chat_template": None})
    source = Source(str(tmp_path / "rows.jsonl"), "chat", options=FIELD.options)
    config = PrepareConfig(vocab_size=512, seq_len=64)
    context = StageContext(RecordStore(tmp_path / "home", "other"))
    with pytest.raises(DataError, match=r"no chat template.*do: use plain"):
        run(context, config, {"chat": FIELD}, [source], "0" * 64, 1, Tokens(without, own.codecs))


@given(st.lists(st.integers(1, 40), max_size=60))
def test_best_fit_holds_each_once_and_no_two_groups_fit_into_one(lengths: list[int]) -> None:
    groups = best_fit(lengths, 40)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    sums = [sum(lengths[place] for place in group) for group in groups]
    assert all(total <= 40 for total in sums)
    assert all(one + other > 40 for one, other in combinations(sums, 2))
