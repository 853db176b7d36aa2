"""Training text in held-out documents, against sets of tuples counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import prepared_corpus
from whorl.codecs.contract import Tokens
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import HeldoutDocument
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.stages.evaluate import contamination
from whorl.stages.evaluate.baselines import read_stream
from whorl.stages.evaluate.contamination import NGRAM, seen_shares, summary_of


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("prepared")
    return prepared_corpus(folder / "home", folder / "data")


def document(name: str, ids: list[int]) -> HeldoutDocument:
    return HeldoutDocument(name, np.array(ids), np.ones(len(ids), bool), 10 * len(ids))


def by_hand(train: list[int], ids: list[int]) -> float:
    grams = {tuple(train[i : i + NGRAM]) for i in range(len(train) - NGRAM + 1)}
    covered = {
        place + offset
        for place in range(len(ids) - NGRAM + 1)
        if tuple(ids[place : place + NGRAM]) in grams
        for offset in range(NGRAM)
    }
    return len(covered) / len(ids)


def test_shares_are_those_counted_by_hand(
    prepared: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, tokens = RowSet.open(prepared), Tokens.load(prepared.folder("tokens"))
    special = {*tokens.contract.special.values()}
    train = [i for i in read_stream(rows, tokens).ids.tolist() if i not in special]
    generator = np.random.default_rng(0)
    free = generator.integers(20, tokens.contract.vocab_size, 60).tolist()
    asked = [
        document("all of it", train[100:180]),
        document("a quotation", [*free[:20], *train[300:325], *free[20:40]]),
        document("one too few", [*free[:20], *train[400 : 400 + NGRAM - 1], *free[40:60]]),
        document("none of it", free),
        document("short", train[5:10]),
        HeldoutDocument("no text", np.arange(40), np.ones(40, bool), 0),
    ]
    held = HeldoutDocuments.open(prepared)
    asked += [held.document(number) for number in range(6)]
    shares = seen_shares(rows, tokens, asked)
    for each, share in zip(asked, shares, strict=True):
        ids = [i for i in each.ids.tolist() if i not in special]
        if not each.num_bytes or len(ids) < NGRAM:
            assert share is None
        else:
            assert share == pytest.approx(by_hand(train, ids), abs=1e-12)
    assert shares[0] == 1.0 and shares[1] == pytest.approx(25 / 65) and shares[3] == 0.0
    at_once = 3 * (rows.seq_len + 1)  # a part at a time: nothing is lost
    monkeypatch.setattr(contamination, "IDS_AT_ONCE", at_once)
    assert seen_shares(rows, tokens, asked) == shares


def test_summary_counts_documents() -> None:
    asked = [document(name, [1]) for name in "abcd"]
    found = summary_of(asked, [1.0, 0.25, 0.0, None])
    assert (found["documents"], found["touched"], found["mostly_seen"]) == (3, 2, 1)
    assert found["mean_share"] == pytest.approx(1.25 / 3)
    assert [row["name"] for row in found["worst"]] == ["a", "b"]
    assert summary_of([], [])["mean_share"] is None


def test_the_record_holds_shares(prepared: Record, tmp_path: Path) -> None:
    """Through the stage, with a model of which every id is equally probable."""
    import json

    from tests.stages.evaluate.fakes import ScoringEngine, context_in, model_folder
    from whorl.core.variants import Variant
    from whorl.fields.text import FIELD
    from whorl.spec.resolved import EvaluateConfig
    from whorl.stages.evaluate.run import run

    tokens = Tokens.load(prepared.folder("tokens"))
    folder = model_folder(tmp_path / "model", tokens)
    engine = ScoringEngine(tokens.contract.digest, lambda ids: -np.ones(len(ids) - 1))
    models = {Variant("hf", "f32"): folder}
    for is_asked in (True, False):
        config = EvaluateConfig(window=48, baselines=False, contamination=is_asked)
        work = (context_in(tmp_path / "home"), config, {"text": FIELD}, prepared, models)
        record = run(*work, lambda path, variant: engine)
        (field,) = json.loads(record.file("scores.json").read_bytes())["fields"]
        told = json.loads(record.file("per_document.json").read_bytes())["text"]
        assert ("contamination" in field) == ("seen_shares" in told) == is_asked
        if is_asked:
            assert len(told["seen_shares"]) == len(told["documents"])
            assert field["contamination"]["documents"] > 0
