"""The stage from sources to a record: what is kept, counted, split, encoded and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.stages.prepare.prose import CHINESE, DEGENERATE, ENGLISH
from tests.stages.prepare.support import (
    FIELDS,
    PixelField,
    contents,
    prepare,
    story,
    write_stories,
)
from tests.stages.prepare.test_shingles import edited
from whorl.codecs.contract import Tokens
from whorl.core.errors import BusyError, DataError, RecordError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.lock import exclusive
from whorl.core.ports import Source
from whorl.core.records import Record
from whorl.core.rows import RowSet


def texts_of_rows(record: Record) -> list[str]:
    """The training documents, joined again from the rows by their segments."""
    tokens = Tokens.load(record.folder("tokens"))
    rows = RowSet.open(record)
    batch = rows.read(np.arange(rows.num_rows))
    documents: list[list[int]] = []
    for ids, starts in zip(batch.ids.tolist(), batch.segment_starts.tolist(), strict=True):
        for place, (number, start) in enumerate(zip(ids, starts, strict=True)):
            if number == tokens.contract.start_ids[0] and not (
                place == 0 and documents[-1:] == [[0]]
            ):
                documents.append([])
            if number == tokens.contract.pad_id or (start and place == 0 and number != 0):
                continue  # padding, or the repeated last id of a continued document
            documents[-1].append(number)
    return [tokens.decode(document) for document in documents]


def heldout_texts(record: Record) -> dict[str, str]:
    tokens = Tokens.load(record.folder("tokens"))
    documents = HeldoutDocuments.open(record)
    return {
        name: tokens.decode(documents.ids(number).tolist())
        for number, name in enumerate(documents.names)
    }


def check_sums(record: Record) -> None:
    """Every document read is trained on, held out or dropped; tokens and rows agree."""
    metrics = record.metrics
    kept = metrics["train_documents"] + metrics["heldout_documents"]
    assert metrics["read_documents"] == kept + sum(metrics["dropped"].values())
    rows = RowSet.open(record)
    masks = rows.read(np.arange(rows.num_rows)).loss_mask
    assert int(masks.sum()) == rows.index.trained_tokens == metrics["trained_tokens"]
    heldout = RowSet.heldout(record)
    documents = HeldoutDocuments.open(record)
    trained = sum(int(documents.mask(n).sum()) for n in range(len(documents)))
    assert int(heldout.read(np.arange(heldout.num_rows)).loss_mask.sum()) == trained
    assert heldout.index.heldout_trained_tokens == trained
    assert sum(source.num_rows for source in rows.index.sources) == rows.num_rows


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Rows decoded again are the training files, held-out documents the others."""
    folder = write_stories(tmp_path / "texts", range(60))
    record = prepare(tmp_path / "home", folder, heldout_share=0.2)
    originals = {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir())}
    heldout = heldout_texts(record)
    assert heldout == {name: originals[name] for name in heldout}
    expected = [text for name, text in originals.items() if name not in heldout]
    assert texts_of_rows(record) == expected
    assert 4 <= len(heldout) <= 22 and record.metrics["dropped"] == {}
    check_sums(record)
    documents = HeldoutDocuments.open(record)
    assert [documents.num_bytes(n) for n in range(len(documents))] == [
        len(text.encode()) for text in heldout.values()
    ]
    train_bytes = sum(len(text.encode()) for text in expected)
    assert record.metrics["train_bytes"] == train_bytes
    assert 1 < record.metrics["bytes_per_token"] < 8


def test_text_is_normalised(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(5))
    (folder / "a.txt").write_text("cafe\u0301 " + story(77))
    (folder / "b.txt").write_text("caf\u00e9 " + story(77))
    record = prepare(tmp_path / "home", folder)
    assert record.metrics["dropped"] == {"exact duplicate": 1}
    everything = [*texts_of_rows(record), *heldout_texts(record).values()]
    assert "caf\u00e9 " + story(77) in everything


def test_copies_and_repetition_go_and_prose_stays(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    planted = {
        "prose": [*CHINESE, *ENGLISH],
        "same": [*CHINESE, *ENGLISH],
        "similar": [edited(text, 1, n) for n, text in enumerate([*CHINESE, *ENGLISH])],
        "zdegenerate": DEGENERATE,
    }
    for kind, texts in planted.items():
        for number, text in enumerate(texts):
            (folder / f"{kind}-{number:02d}.txt").write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "blank.txt").write_text(" \n")
    record = prepare(tmp_path / "home", folder)
    count = len(CHINESE) + len(ENGLISH)
    assert record.metrics["dropped"] == {
        "empty": 1,
        "exact duplicate": count,
        "near duplicate": count,
        "not UTF-8, looks like latin-1": 1,
        "repetition": len(DEGENERATE),
    }
    check_sums(record)
    everything = {*texts_of_rows(record), *heldout_texts(record).values()}
    assert everything == {*CHINESE, *ENGLISH}


def test_the_split_comes_after_deduplication(tmp_path: Path) -> None:
    """No held-out text is also trained on, though every text came twice."""
    rows = [json.dumps({"text": story(number % 40)}) for number in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    record = prepare(tmp_path / "home", tmp_path / "rows.jsonl", heldout_share=0.3)
    trained, heldout = set(texts_of_rows(record)), set(heldout_texts(record).values())
    assert len(trained) + len(heldout) == 40 and not trained & heldout


def test_the_split_follows_content_and_seed(tmp_path: Path) -> None:
    first = write_stories(tmp_path / "a", range(50))
    renamed = tmp_path / "b"
    renamed.mkdir()
    for number, path in enumerate(sorted(first.iterdir(), reverse=True)):
        (renamed / f"{number}.txt").write_text(path.read_text("utf-8"))
    texts = [
        set(heldout_texts(prepare(tmp_path / "home", folder, **config)).values())
        for folder, config in ((first, {}), (renamed, {}), (first, {"seed": 1}))
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("count", [2, 3])
def test_a_persons_own_few_files(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text(f"A note of a few words, number {number}.\n")
    record = prepare(tmp_path / "home", tmp_path, seq_len=256)
    assert len(texts_of_rows(record)) == count - 1 and len(heldout_texts(record)) == 1
    check_sums(record)


def test_one_text_is_cut(tmp_path: Path) -> None:
    text = "\n".join(ENGLISH)
    (tmp_path / "one.txt").write_text(text)
    record = prepare(tmp_path / "home", tmp_path / "one.txt")
    (trained,), heldout = texts_of_rows(record), heldout_texts(record)
    assert list(heldout) == ["one.txt (its end)"]
    assert trained + heldout["one.txt (its end)"] == text and trained.endswith("\n")
    assert RowSet.heldout(record).num_rows >= 1


def test_fixed_splits_stay(tmp_path: Path) -> None:
    """20 arrays of which every fifth is held out."""
    record = prepare(tmp_path, Source("anything", "pixels"))
    names = HeldoutDocuments.open(record).names
    assert names == ("0", "5", "10", "15")
    check_sums(record)
    tokens = record.folder("tokens")
    assert sorted(p.name for p in tokens.iterdir()) == ["codecs", "contract.json"]
    # Of <|bos|>, four pixels, label and <|eos|> only the last two are targets.
    assert record.metrics["trained_tokens"] == 2 * record.metrics["train_documents"] == 32


def test_a_text_and_another_field_share_a_record(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(40))
    sources = [Source(str(folder), "text", share=0.25), Source("x", "pixels", share=0.75)]
    record = prepare(tmp_path / "home", *sources, fields={**FIELDS, "pixels": PixelField(400)})
    rows = RowSet.open(record)
    text, pixels = rows.index.sources
    assert (text.field, pixels.field) == ("text", "pixels")
    assert pixels.first_row == text.num_rows and text.trained_tokens > 3 * pixels.trained_tokens
    drawn = np.concatenate([rows.rows_of_step(step, 64, seed=0) for step in range(60)])
    masks = rows.read(drawn).loss_mask
    is_text = drawn < text.num_rows
    share = masks[is_text].sum() / masks.sum()
    assert abs(share - 0.25) * masks.sum() <= masks.sum(axis=1).max()  # to one row
    contract = json.loads(record.file("tokens/contract.json").read_bytes())
    assert [entry["name"] for entry in contract["codecs"]] == ["text", "pixel", "label"]
    assert contract["codecs"][-1]["id_end"] <= 512
    check_sums(record)


def test_two_sources_of_text_share_a_codec(tmp_path: Path) -> None:
    first = write_stories(tmp_path / "a", range(30))
    second = write_stories(tmp_path / "b", range(20, 50))
    record = prepare(tmp_path / "home", first, second)
    assert record.metrics["dropped"] == {"exact duplicate": 10}
    assert len(texts_of_rows(record)) + len(heldout_texts(record)) == 50
    assert min(source.num_rows for source in RowSet.open(record).index.sources) > 0


def test_a_record_is_found_again(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    first = prepare(tmp_path / "home", folder)
    before = (first.path / "manifest.json").stat().st_mtime_ns
    again = prepare(tmp_path / "home", folder)
    assert again.digest == first.digest
    assert (again.path / "manifest.json").stat().st_mtime_ns == before
    assert prepare(tmp_path / "home", folder, vocab_size=400).digest != first.digest


def test_nothing_is_left_beside_the_record(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    record = prepare(tmp_path / "home", folder)
    assert [p.name for p in (record.path.parent / f"{record.digest}.run").iterdir()] == ["lock"]
    (folder / "story-0000.txt").write_text("changed\n")
    failing = {"text": FailingField()}
    with pytest.raises(SpecError):
        prepare(tmp_path / "home", folder, fields=failing)
    assert not list((tmp_path / "home").rglob("spill-*"))
    assert not list((tmp_path / "home").rglob("*.tmp-*"))


class FailingField(type(FIELDS["text"])):  # type: ignore[misc]
    def fit_codecs(self, documents: object, options: object) -> dict[str, object]:
        raise SpecError("cannot fit")


def test_a_field_made_on_the_spot_is_prepared_in_one_process(tmp_path: Path) -> None:
    class OwnField(type(FIELDS["text"])):  # type: ignore[misc]
        pass

    sources = [write_stories(tmp_path / name, range(n, n + 6)) for n, name in ((0, "a"), (9, "b"))]
    record = prepare(tmp_path / "home", *sources, fields={"text": OwnField()}, workers=2)
    assert record.metrics["read_documents"] == 12 and record.run["workers"] == 1


def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    record = prepare(tmp_path / "home", folder)
    for name, data in contents(record).items():
        bad = bytearray(data)
        bad[len(bad) // 3] ^= 2
        (record.path / name).write_bytes(bytes(bad))
        with pytest.raises(RecordError):
            prepare(tmp_path / "home", folder)
        (record.path / name).write_bytes(data)
    assert prepare(tmp_path / "home", folder).digest == record.digest


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    record = prepare(tmp_path / "home", folder)
    digest, path = record.digest, record.path
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
    with exclusive(path.parent / f"{digest}.run", "prepare"), pytest.raises(BusyError):
        prepare(tmp_path / "home", folder)


def test_the_log_says_what_was_dropped(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xff")
    lines: list[str] = []
    prepare(tmp_path / "home", folder, log=lines.append)
    assert len(lines) == 1 and lines[0].endswith("left out: 1 not utf-16-le from some place on")


# ------------------------------------------------------------------ errors, one clear line


def test_no_usable_document(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": "a"}\n' * 3 + "{\n")
    with pytest.raises(DataError) as error:
        prepare(tmp_path / "home", tmp_path / "x.jsonl")
    message = str(error.value)
    first = "3 x no key text (first: x.jsonl, line 1), 1 x JSON ends too early (first: x.jsonl"
    assert f"no readable document in {tmp_path / 'x.jsonl'}; found: {first}, line 4" in message
    assert message.endswith("do: it has body: write text_key: body")
    assert "\n" not in message and error.value.exit_code == 3


def test_one_of_two_sources_without_a_document(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "a", range(6))
    (tmp_path / "b.txt").write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match=r"no readable document in .*b\.txt; found: 1 x not UTF-8"):
        prepare(tmp_path / "home", folder, tmp_path / "b.txt")


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document to train on"):
        prepare(tmp_path, Source("x", "pixels"), fields={"pixels": PixelField(1)})


def test_a_vocabulary_too_small(tmp_path: Path) -> None:
    folder = write_stories(tmp_path / "texts", range(6))
    with pytest.raises(SpecError, match="at least 256"):
        prepare(tmp_path / "home", folder, vocab_size=200)
    sources = [Source(str(folder), "text"), Source("x", "pixels")]
    with pytest.raises(SpecError, match="at least 256"):
        prepare(tmp_path / "home", *sources, vocab_size=300)
