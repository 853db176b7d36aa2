"""GGUF files that whorl writes, read by the library gguf, against llama.cpp's names and order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.codecs.test_gguf_tokens import RULES, trained
from tests.model.gguf_files import gguf_facts, gguf_tensors, text_facts
from tests.model.test_gguf_model import CASES, llama3_factors, theirs
from whorl.arch.hf_config import shape_from_config
from whorl.codecs.contract import Tokens
from whorl.codecs.gguf_facts import PROBES, gguf_token_facts
from whorl.codecs.gguf_tokens import read_gguf_tokens
from whorl.codecs.hf_tokens import read_hf_tokens
from whorl.codecs.label import LabelCodec
from whorl.core.errors import PlanError, SpecError
from whorl.model.families import family_of
from whorl.model.gguf_export import FILE_TYPES, gguf_file_facts, write_gguf
from whorl.testing.corpus import tiny_tokens
from whorl.testing.models import tiny_model, tiny_shape

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
VOCAB = 512


def exported(path: Path, model: Any, kind: str = "f32") -> Any:
    """A transformers model as whorl writes it, opened by the library."""
    shape = shape_from_config(model.config.to_dict())
    weights = family_of(shape).from_disk(model.state_dict())
    write_gguf(path, weights, shape, tiny_tokens(VOCAB), kind)
    return gguf.GGUFReader(path)


def fact(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


@pytest.mark.parametrize("case", [case for case in CASES if case != "llama biased"])
def test_tensors_and_facts_are_llama_cpps(case: str, tmp_path: Path) -> None:
    model = theirs(case, vocab_size=VOCAB)
    reader = exported(tmp_path / "model.gguf", model)
    expected = gguf_tensors(model)
    if case == "llama 3":
        expected["rope_freqs.weight"] = llama3_factors(model.config)
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        sizes = tuple(reversed(found[name].shape.tolist()))
        assert sizes == array.shape, name
        np.testing.assert_allclose(found[name].data.reshape(sizes), array, rtol=1e-6)
    for key, value in (gguf_facts(model.config) | CASES[case][2]).items():
        assert fact(reader, key) == pytest.approx(value), key
    assert fact(reader, "general.file_type") == 0


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_matrices_are_of_the_kind_and_vectors_whole(kind: str, tmp_path: Path) -> None:
    model = theirs("qwen2", vocab_size=VOCAB, intermediate_size=64)
    reader = exported(tmp_path / "model.gguf", model, kind)
    expected = gguf_tensors(model)
    bound = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11}[kind]
    for tensor in reader.tensors:
        array = expected[tensor.name]
        wanted = kind.upper() if array.ndim > 1 else "F32"
        assert tensor.tensor_type.name == wanted
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(array.shape)
        assert np.abs(numbers - array).max() <= 1.001 * bound * np.abs(array).max()


@pytest.mark.parametrize("rule", RULES)
def test_tokenizers_are_said_by_their_rule(rule: str, tmp_path: Path) -> None:
    trained(rule).save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokens = read_hf_tokens(tmp_path)
    facts = gguf_token_facts(tokens)
    assert facts["tokenizer.ggml.pre"] == rule
    read = read_gguf_tokens(facts, tokens.contract.vocab_size)
    for text in PROBES:
        assert read.encode_prompt(text) == tokens.encode_prompt(text), text


def test_our_own_tokens_are_said_as_a_writer_of_others_says_them() -> None:
    tokens = tiny_tokens(VOCAB)
    assert {key: text_facts(tokens)[key] for key in text_facts(tokens)} == {
        key: value
        for key, value in gguf_token_facts(tokens).items()
        if key not in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_eos_token")
    }


def test_what_such_a_file_cannot_say_is_refused(tmp_path: Path) -> None:
    tokens = tiny_tokens(VOCAB)
    for changes, reason in (
        ({"family": "gemma3_text"}, "family gemma3_text"),
        ({"activation": "gelu"}, "activation gelu"),
        ({"block": "mine"}, "layers of a package"),
    ):
        shape = dataclasses.replace(tiny_shape(), **changes)
        with pytest.raises(SpecError, match=reason):
            gguf_file_facts(shape, tokens, "f32")
    labelled = Tokens.build({**tokens.codecs, "label": LabelCodec(("a", "b"))}, VOCAB + 16)
    with pytest.raises(SpecError, match="text alone"):
        gguf_token_facts(labelled)
    shape = tiny_shape(ffn_width=72)
    weights = tiny_model(shape).state_dict()
    with pytest.raises(PlanError, match="no whole blocks of q8_0"):
        write_gguf(tmp_path / "a.gguf", weights, shape, tokens, "q8_0")
    large = {name: tensor * 1e7 for name, tensor in weights.items()}
    with pytest.raises(PlanError, match="too large for f16"):
        write_gguf(tmp_path / "b.gguf", large, shape, tokens, "f16")
    assert torch.isfinite(weights["norm.weight"]).all()
