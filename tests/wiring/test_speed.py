"""A variant timed in a process of its own, and the texts that smaller weights are fitted on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import prepared_corpus
from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.rows import RowSet
from whorl.core.variants import Variant
from whorl.stages.evaluate.baselines import TokenDocuments, read_stream
from whorl.testing.models import tiny_model_folder
from whorl.wiring.speed import measure_speed
from whorl.wiring.texts import training_texts


def test_figures_are_of_another_process(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "hf", steps=0)
    begin_s = time.monotonic()
    found = measure_speed(folder, Variant("hf", "f32"), [[1, 2, 3], [4, 5]], "torch")
    took_s = time.monotonic() - begin_s
    assert set(found.tokens_per_s) == {1, 16} and 0 < found.start_s < took_s
    assert all(1 < rate < 1e6 for rate in found.tokens_per_s.values())
    assert 2**25 < found.peak_bytes < 2**34
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=r"in a process of its own.*model\.safetensors"):
        measure_speed(folder, Variant("hf", "f32"), [[1]], "torch")
    assert os.path.exists(folder)


def test_texts_are_pieces_of_training_documents(tmp_path: Path) -> None:
    prepared = prepared_corpus(tmp_path / "home", tmp_path / "data")
    rows, tokens = RowSet.open(prepared), Tokens.load(prepared.folder("tokens"))
    texts = training_texts(prepared, count=7, max_tokens=20)
    assert len(texts) == 7 and all(2 <= len(ids) <= 20 for ids in texts)
    stream = read_stream(rows, tokens)
    begins = np.flatnonzero(stream.starts).tolist()
    whole = [
        " ".join(map(str, stream.ids[begin:end].tolist()))
        for begin, end in zip(begins, [*begins[1:], len(stream.ids)], strict=True)
    ]
    for ids in texts:
        assert any(" ".join(map(str, ids)) in document for document in whole)
    assert len(TokenDocuments(stream, tokens)) == len(whole)
    assert len(training_texts(prepared, count=10**6)) == rows.num_rows
