"""Model folders against transformers; every flipped bit of every file is found."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from whorl.codecs.contract import Tokens
from whorl.codecs.hf_tokens import read_hf_tokens
from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import RecordError, SpecError
from whorl.model.folder import read_card
from whorl.model.hf import load_model_folder, load_weights, save_model_folder
from whorl.testing.corpus import tiny_texts, tiny_tokens
from whorl.testing.models import tiny_model, tiny_model_folder, tiny_shape

SHAPES = {
    "qwen3": {},
    "llama": {"family": "llama", "tied_embeddings": False},
    "wide_heads": {"head_dim": 32, "kv_heads": 1, "rope_theta": 500.0, "norm_eps": 1e-5},
    "no_groups": {"family": "llama", "kv_heads": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("hf") / "model", steps=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_gives_the_same_logits(shape: str, tmp_path: Path) -> None:
    shape = tiny_shape(**SHAPES[shape])
    model = tiny_model(shape)
    save_model_folder(tmp_path / "m", model.state_dict(), shape, tiny_tokens(512), {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ids = torch.tensor(np.random.default_rng(0).integers(0, 512, (2, 100)))
    loaded, found, tokens, card = load_model_folder(tmp_path / "m")
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(loaded.logits(loaded(ids)), expected, atol=2e-5, rtol=1e-4)
    assert found == shape == card.shape
    assert card.contract_digest == tokens.contract.digest
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_weights_of_transformers_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, shape = load_weights(tmp_path)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids)), theirs(ids).logits)
    assert shape.family == "llama" and shape.tied_embeddings


def test_tokenizer_of_transformers_agrees_with_the_contract(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    tokens = Tokens.load(folder / "tokens")
    for text in tiny_texts(5, seed=3):
        assert theirs.encode(text, add_special_tokens=False) == tokens.encode_prompt(text)[1:]
    assert [theirs.eos_token_id] == list(tokens.contract.end_ids)
    assert theirs.decode(list(tokens.contract.start_ids)) == "<|bos|>"


def test_chats_and_prompts_of_transformers_agree_with_the_contract(folder: Path) -> None:
    """A folder is all that is needed: <|bos|> in front, the template, what ends answers."""
    theirs, tokens = AutoTokenizer.from_pretrained(folder), Tokens.load(folder / "tokens")
    for text in tiny_texts(5, seed=3):
        assert theirs.encode(text) == tokens.encode_prompt(text)
    chat = [{"role": "system", "content": "Hi"}, {"role": "user", "content": "A shell?"}]
    for ask in (False, True):
        for messages in (chat, [*chat, {"role": "assistant", "content": "Yes."}, chat[1]]):
            expected = theirs.apply_chat_template(
                messages, add_generation_prompt=ask, return_dict=False
            )
            assert tokens.encode_chat({"messages": messages}, ask)[0].tolist() == expected
    again = read_hf_tokens(folder)
    assert again.contract == tokens.contract


def test_same_model_same_bytes(tmp_path: Path) -> None:
    folders = [tiny_model_folder(tmp_path / name, steps=0) for name in ("a", "b")]
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def _copy(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def test_any_flipped_bit_is_found(
    folder: Path, tmp_path: Path, trials: Callable[[int], int]
) -> None:
    chooser = random.Random(0)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    copy = _copy(folder, tmp_path / "copy")
    for trial in range(trials(3 * len(names))):
        name = names[trial % len(names)]  # every file, not only the large one
        data = bytearray((folder / name).read_bytes())
        position = chooser.randrange(len(data))
        data[position] ^= 1 << chooser.randrange(8)
        (copy / name).write_bytes(data)
        with pytest.raises(RecordError, match=name.name):
            load_model_folder(copy)
        (copy / name).write_bytes((folder / name).read_bytes())
    load_model_folder(copy)  # restored


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "swapped", "duplicated"])
def test_other_damage_is_found(damage: str, folder: Path, tmp_path: Path) -> None:
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    for name in names:
        copy = _copy(folder, tmp_path / "copy")
        path, data = copy / name, (folder / name).read_bytes()
        if damage == "truncated":
            path.write_bytes(data[:-1])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "missing":
            path.unlink()
        elif damage == "swapped":
            path.write_bytes((folder / names[names.index(name) - 1]).read_bytes())
        else:
            path.with_name(f"copy-of-{path.name}").write_bytes(data)
        with pytest.raises(RecordError):
            load_model_folder(copy)


def test_other_token_contract_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = _copy(folder, tmp_path / "copy")
    card = read_sealed(copy / "whorl.json")
    write_sealed(copy / "whorl.json", card | {"contract_digest": "0" * 64})
    with pytest.raises(RecordError, match="refuses its token contract"):
        read_card(copy)


def test_folder_without_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a model folder"):
        read_card(tmp_path)


def test_full_folder_is_not_written_over(folder: Path) -> None:
    shape = tiny_shape()
    model = tiny_model(shape)
    with pytest.raises(RecordError, match="not empty"):
        save_model_folder(folder, model.state_dict(), shape, tiny_tokens(512), {})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("model_type", "gpt2", SpecError),
        ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0}, SpecError),
        ("num_hidden_layers", "many", SpecError),
        ("num_attention_heads", None, SpecError),
        ("hidden_size", 65, RecordError),
        ("intermediate_size", 129, RecordError),
        ("quantization_config", {"bits": 4}, RecordError),
    ],
)
def test_unknown_configs_are_refused(
    key: str, value: object, error: type[Exception], folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(error):
        load_weights(copy)
