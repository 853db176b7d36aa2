"""The rule of shapes against the models it is drawn from."""

from __future__ import annotations

import pytest

from whorl.arch.known_models import known_model
from whorl.arch.llama_like import llama_like
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import PlanError


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b"])
def test_the_size_of_a_llama_gives_the_llama(name: str) -> None:
    known = known_model(name)
    found = llama_like(count_shape(known).total)
    sizes = ("layers", "width", "ffn_width", "vocab_size", "tied_embeddings")
    assert [getattr(found, key) for key in sizes] == [getattr(known, key) for key in sizes]
    heads = (found.attention.heads, found.attention.kv_heads, found.attention.head_dim)
    theirs = known.attention
    assert heads == (theirs.heads, theirs.kv_heads, theirs.head_dim)


@pytest.mark.parametrize("size", [2e8, 1e9, 3.2e9, 14e9, 33e9, 130e9, 405e9, 2e12])
def test_every_size_is_met_in_proportion(size: float) -> None:
    shape = llama_like(size)
    assert count_shape(shape).total == pytest.approx(size, rel=0.03)
    assert 80 < shape.width / shape.layers < 160
    assert shape.ffn_width % 256 == 0


def test_a_vocabulary_too_large_for_the_size_is_refused() -> None:
    with pytest.raises(PlanError, match="128,256"):
        llama_like(3e7)
    assert count_shape(llama_like(3e7, 8192)).total == pytest.approx(3e7, rel=0.1)
