"""The forgetting probe: its text, what of it is left out, how before and after are paired."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log
from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import ScoringEngine, context_in, model_folder, prepared_corpus
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Engine
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.core.variants import Variant
from whorl.fields.text import FIELD
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.forgetting import ForgettingProbe, GeneralText
from whorl.stages.evaluate.run import run

HF = Variant("hf", "f32")
SERVED = Variant("openvino", "int8")
CONFIG = EvaluateConfig(max_bytes=2_000, window=512, bootstrap_samples=200, baselines=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("prepared")
    return prepared_corpus(folder / "home", folder / "data")


def test_our_own_text_is_prose_that_every_machine_has() -> None:
    text = GeneralText.own()
    assert len(text.passages) == len(set(text.passages)) == 20
    assert all(300 < len(passage.encode()) < 900 for passage in text.passages)
    assert text.digest == GeneralText.own().digest


def test_a_persons_text_is_cut_at_blank_lines() -> None:
    paragraphs = [f"Paragraph {n} " + "goes on and on " * 20 for n in range(60)]
    text = GeneralText.of(["\n\n".join(paragraphs), "short"])
    assert len(text.passages) == 24
    assert set(text.passages) <= {paragraph.strip() for paragraph in paragraphs}
    assert text.passages[0].startswith("Paragraph 0 ")
    with pytest.raises(DataError, match="no passage"):
        GeneralText.of(["short"])
    (long,) = GeneralText.of(["ä" * 5000]).passages
    assert len(long.encode()) <= 1200 and set(long) == {"ä"}


class Engines:
    """The base's every id costs two bits, the taught model's 2.2 or, of odd ids, 2.3."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.opened: list[tuple[str, str]] = []

    def __call__(self, folder: Path, variant: Variant) -> Engine:
        self.opened.append((folder.name, str(variant)))

        def score(ids: Sequence[int]) -> np.ndarray:
            odd = np.array(ids[1:]) % 2
            bits = 2.0 + 0 * odd if folder.name == "base" else 2.2 + 0.1 * odd
            return -log(2) * bits

        return ScoringEngine(self.digest, score)


def evaluated(prepared: Record, tmp_path: Path, text: GeneralText) -> tuple[Record, Engines]:
    tokens = Tokens.load(prepared.folder("tokens"))
    folders = {
        name: model_folder(tmp_path / name, tokens, str(number))
        for number, name in enumerate(("base", "taught", "served"))
    }
    probe = ForgettingProbe(text, (HF, folders["base"]), (HF, folders["taught"]), "smollm2")
    engines = Engines(tokens.contract.digest)
    models = {SERVED: folders["served"]}
    fields = {"text": FIELD}
    record = run(
        context_in(tmp_path / "home"), CONFIG, fields, prepared, models, engines, probe=probe
    )
    return record, engines


def test_before_and_after_are_paired_through_one_engine(prepared: Record, tmp_path: Path) -> None:
    text = GeneralText.own()
    record, engines = evaluated(prepared, tmp_path, text)
    assert sorted(engines.opened) == [  # each once, the base for the field's questions too
        ("base", "hf f32"),
        ("served", "openvino int8"),
        ("taught", "hf f32"),
    ]
    tokens = Tokens.load(prepared.folder("tokens"))
    ids = [tokens.encode_prompt(passage)[1:] for passage in text.passages]
    num_bytes = sum(len(passage.encode()) for passage in text.passages)
    count, odd = sum(map(len, ids)), sum(i % 2 for part in ids for i in part)
    told = record.metrics["forgetting"]
    assert told["before"] == pytest.approx(2 * count / num_bytes)
    assert told["after"] == pytest.approx((2.2 * count + 0.1 * odd) / num_bytes)
    assert told["rise"] == pytest.approx(told["after"] / told["before"] - 1)
    assert told["low"] < told["rise"] < told["high"] < told["rise"] + 0.01  # paired: narrow
    written = json.loads(record.file("scores.json").read_bytes())
    assert written["forgetting"] == told
    names = [s["name"] for s in written["scores"] if s["field"] == "general text"]
    assert names == ["openvino int8", "hf f32", "its base, hf f32"]
    pairs = [p for p in written["comparisons"] if p["field"] == "general text"]
    assert {p["second"] for p in pairs} == {p["better"] for p in pairs} == {"its base, hf f32"}
    assert pairs[-1]["first"] == "openvino int8"


def test_passages_that_are_trained_on_are_left_out(prepared: Record, tmp_path: Path) -> None:
    """Whole rows of training text are passages; a brute-force search says which are."""
    tokens, rows = Tokens.load(prepared.folder("tokens")), RowSet.open(prepared)
    batch = rows.read(np.arange(rows.num_rows))
    row = next(n for n in range(rows.num_rows) if not batch.segment_starts[n, 1:].any())
    learned = tokens.decode(batch.ids[row].tolist())
    other = GeneralText.own().passages[0]
    stream = [tuple(ids[n : n + 12]) for ids in batch.ids.tolist() for n in range(len(ids) - 11)]
    found = {
        text: [tuple(ids[n : n + 12]) in set(stream) for n in range(len(ids) - 11)]
        for text in (learned, other)
        for ids in (tokens.encode_prompt(text),)
    }
    assert np.mean(found[learned]) > 0.5 and not any(found[other])
    record, _ = evaluated(prepared, tmp_path, GeneralText((learned, other)))
    told = record.metrics["forgetting"]
    assert (told["passages"], told["left_out"]) == (1, 1)
    with pytest.raises(DataError, match="in the training data too"):
        evaluated(prepared, tmp_path / "again", GeneralText((learned,)))
