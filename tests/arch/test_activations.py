"""Names of activations against those of transformers, and what they compute."""

from __future__ import annotations

import pytest

from whorl.arch.activations import ACTIVATIONS, activation_of, hf_activation

torch = pytest.importorskip("torch", reason="needs the extra train")
activations = pytest.importorskip("transformers.activations", reason="needs the extra train")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_computes_what_transformers_computes_by_all_its_names(name: str) -> None:
    from whorl.model.blocks.feed_forward import FUNCTIONS

    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert activation_of(hf_activation(name)) == name
    for hf_name in ACTIVATIONS[name].hf:
        assert activation_of(hf_name) == name
        theirs = activations.ACT2FN[hf_name](x)
        torch.testing.assert_close(FUNCTIONS[name](x), theirs, rtol=1e-9, atol=1e-9)


def test_others_keep_their_names() -> None:
    assert activation_of("quick_gelu") == hf_activation("quick_gelu") == "quick_gelu"
