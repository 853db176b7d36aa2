"""The benchmark of rankings measures: a tiny model's labels, through its engine and the route."""

from __future__ import annotations

from pathlib import Path

import pytest
import rank

from whorl.codecs.contract import Tokens
from whorl.codecs.label import LabelCodec
from whorl.model.hf import save_model_folder
from whorl.testing.models import tiny_model, tiny_shape


def test_both_ways_to_all_candidates_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens.build({"film": LabelCodec([f"film {n}" for n in range(20)], "film")}, 64)
    shape = tiny_shape(vocab_size=64)
    folder = tmp_path / "model"
    state = tiny_model(shape).state_dict()
    save_model_folder(folder, state, shape, tokens, {"prepare": "0" * 32})
    monkeypatch.setattr(rank, "home_folder", lambda: tmp_path / "home")
    monkeypatch.setattr(rank, "WARM_UP", 1)
    found = rank.measured(str(folder), "film", prompt_values=5, count=3)
    assert found["candidates"] == 20 and found["prompt_ids"] == 6
    for way in ("engine", "route"):
        assert 0 < found[way]["median_ms"] <= found[way]["p95_ms"]
