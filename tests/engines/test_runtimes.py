"""The checks of runtimes notice what equal weights do not show: they must be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.engines.runtimes import (
    GOLDEN_TOKENS,
    Runtime,
    check_runtime,
    golden_prompts,
    openvino_runtime,
    torch_runtime,
    transformers_runtime,
)
from whorl.model.folder import read_card
from whorl.model.hf import load_model_folder, save_model_folder

CONTEXT = 256


@pytest.fixture(scope="module")
def asked(tokens: Tokens) -> list[tuple[int, ...]]:
    return golden_prompts(tokens, CONTEXT)


def test_prompts_are_texts_and_a_question(asked: list[tuple[int, ...]], tokens: Tokens) -> None:
    assert len(asked) == 4 and all(ids[0] == tokens.contract.start_ids[0] for ids in asked)
    assert "capital of France?" in tokens.decode(asked[-1])
    assert all(len(ids) <= 5 for ids in golden_prompts(tokens, 10))


def test_all_three_runtimes_agree(folders: Path, asked: list[tuple[int, ...]]) -> None:
    card = read_card(folders / "hf")
    with torch_runtime(folders / "hf") as reference:
        with transformers_runtime(folders / "hf", card) as other:
            figures = check_runtime(reference, other, asked, CONTEXT)
        assert figures.golden_tokens == figures.asked_tokens == 2 * GOLDEN_TOKENS
        assert 0 < figures.max_logit_difference < 1e-3
        with openvino_runtime(folders / "f32") as other:
            figures = check_runtime(reference, other, asked, CONTEXT)
        assert figures.golden_tokens >= GOLDEN_TOKENS
        with openvino_runtime(folders / "int8") as other:
            compressed = check_runtime(reference, other, asked, CONTEXT, is_exact=False)
            assert compressed.max_logit_difference > figures.max_logit_difference
            with pytest.raises(EngineError, match="does not compute"):
                check_runtime(reference, other, asked, CONTEXT)


def _swapped(state: dict[str, Any]) -> None:
    q, v = "layers.0.self_attn.k_proj.weight", "layers.0.self_attn.v_proj.weight"
    state[q], state[v] = state[v], state[q]


def _halves(state: dict[str, Any]) -> None:
    """Rows of heads in llama.cpp's order: every number is still there."""
    name = "layers.1.self_attn.q_proj.weight"
    rows = state[name]
    state[name] = rows.reshape(4, 2, 8, -1).transpose(1, 2).reshape(rows.shape).contiguous()


def _one_row(state: dict[str, Any]) -> None:
    state["layers.1.mlp.down_proj.weight"][7] *= 1.5


@pytest.mark.parametrize("damage", [_swapped, _halves, _one_row])
def test_damage_that_keeps_every_size_is_noticed(
    folders: Path,
    asked: list[tuple[int, ...]],
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], None],
) -> None:
    model, shape, tokens, _ = load_model_folder(folders / "hf")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    damage(state)
    save_model_folder(tmp_path / "other", state, shape, tokens, {})
    card = read_card(folders / "hf")
    with (
        torch_runtime(folders / "hf") as reference,
        transformers_runtime(tmp_path / "other", card) as other,
        pytest.raises(EngineError, match="does not compute"),
    ):
        check_runtime(reference, other, asked, CONTEXT)


def test_answers_are_compared_even_where_logits_agree(
    folders: Path, asked: list[tuple[int, ...]]
) -> None:
    """Prompts are read rightly, but the cache is not: only the golden tokens show it."""
    with (
        torch_runtime(folders / "hf") as reference,
        openvino_runtime(folders / "int8") as wrong,
        pytest.raises(EngineError, match="does not say"),
    ):
        mixed = Runtime("mixed", wrong.engine, reference.logits)
        check_runtime(reference, mixed, asked, CONTEXT)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_none_are_no_agreement(
    folders: Path, asked: list[tuple[int, ...]], wrong: float
) -> None:
    with torch_runtime(folders / "hf") as reference:

        def logits(ids: Any) -> Any:
            out = reference.logits(ids).copy()
            out[0, 0] = wrong
            return out

        for is_exact in (True, False):
            with pytest.raises(EngineError):
                check_runtime(
                    reference,
                    Runtime("x", reference.engine, logits),
                    asked,
                    CONTEXT,
                    is_exact=is_exact,
                )


def test_weights_that_forgot_the_model_are_refused(
    folders: Path, asked: list[tuple[int, ...]]
) -> None:
    with torch_runtime(folders / "hf") as reference:
        rolled = Runtime("x", reference.engine, lambda ids: np.roll(reference.logits(ids), 1, -1))
        with pytest.raises(EngineError, match="forgotten"):
            check_runtime(reference, rolled, asked, CONTEXT, is_exact=False)
