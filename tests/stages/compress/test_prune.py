"""Which parts of a model go: against transformers, and against trying every part in turn.

Axes: N tokens, D width, C channels of a feed-forward block.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from whorl.arch.pruning import pruned_shape
from whorl.arch.shape import Experts
from whorl.core.context import StageContext
from whorl.core.errors import DataError, SpecError
from whorl.core.records import RecordStore
from whorl.model.hf import load_model_folder, save_model_folder
from whorl.model.transformer import Transformer
from whorl.stages.compress.prune import influence_of, least, prune, run
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model_folder, tiny_shape

LAYERS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "hf"
    return tiny_model_folder(path, layers=LAYERS, family="llama", steps=80)


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load_model_folder(folder)[0]


@pytest.fixture(scope="module")
def texts(folder: Path) -> list[list[int]]:
    tokens = load_model_folder(folder)[2]
    return [tokens.encode_prompt(text)[:60] for text in tiny_texts(6, seed=5)]


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def their_nats(theirs: Any, texts: list[list[int]]) -> float:
    total, count = 0.0, 0
    for ids in texts:
        row = torch.tensor([ids])
        logits = theirs(input_ids=row, use_cache=False).logits[0, :-1]
        total += float(functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return total / count


@torch.no_grad()
def test_influence_is_what_transformers_hidden_states_say(
    model: Transformer, theirs: Any, texts: list[list[int]]
) -> None:
    found = influence_of(model, texts)
    assert found.nats == pytest.approx(their_nats(theirs, texts), abs=1e-4)
    cosines: list[list[float]] = [[] for _ in range(LAYERS - 1)]  # theirs of the last is normed
    for ids in texts:
        row = torch.tensor([ids[:-1]])
        states = theirs(input_ids=row, output_hidden_states=True).hidden_states
        for layer in range(LAYERS - 1):
            pairs = zip(states[layer][0].numpy(), states[layer + 1][0].numpy(), strict=True)
            cosines[layer] += [
                float(one @ two / np.linalg.norm(one) / np.linalg.norm(two)) for one, two in pairs
            ]
    expected = [1 - np.mean(each) for each in cosines]
    assert found.layers[:-1] == pytest.approx(expected, abs=1e-5)


def test_without_a_layer_it_says_what_transformers_says_without_it(
    model: Transformer, theirs: Any, texts: list[list[int]]
) -> None:
    """Of every layer in turn; and the one that goes first costs less than most."""
    found = influence_of(model, texts)
    losses = []
    for layer in range(LAYERS):
        without = copy.deepcopy(theirs)
        del without.model.layers[layer]
        for number, block in enumerate(without.model.layers):
            block.self_attn.layer_idx = number
        smaller = pruned_shape(model.shape, 1 / LAYERS, 0)
        ours = prune(model, smaller, (layer,), found.channels_C)
        losses.append(their_nats(without, texts))
        assert influence_of(ours, texts).nats == pytest.approx(losses[-1], abs=1e-4)
    (first,) = least(found.layers, 1)
    assert losses[first] <= float(np.median(losses))


def test_a_layer_that_does_nothing_goes_first(model: Transformer, texts: list[list[int]]) -> None:
    idle = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in idle.layers[3].named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    before = influence_of(idle, texts)
    assert least(before.layers, 1) == (3,)
    after = prune(idle, pruned_shape(idle.shape, 0.2, 0), (3,), before.channels_C)
    assert influence_of(after, texts).nats == pytest.approx(before.nats, abs=1e-5)


@torch.no_grad()
def test_channels_are_ranked_by_what_their_absence_changes(
    model: Transformer, texts: list[list[int]]
) -> None:
    """The output of a block without each of its channels in turn, beside the whole output."""
    seen: list[torch.Tensor] = []
    block: Any = model.layers[1]
    hook = block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    found = influence_of(model, texts).channels_C[1]
    hook.remove()
    y_ND = torch.cat([x.flatten(0, -2) for x in seen])
    hidden_NC = block.mlp.hidden(block.post_attention_layernorm(y_ND))
    whole_ND = hidden_NC @ block.mlp.down_proj.weight.T
    changes = []
    for channel in range(model.shape.ffn_width):
        without = hidden_NC.clone()
        without[:, channel] = 0
        change_ND = whole_ND - without @ block.mlp.down_proj.weight.T
        changes.append(float(change_ND.square().sum(-1).mean().sqrt()))
    assert found.tolist() == pytest.approx(changes, rel=1e-3, abs=1e-6)


def test_narrower_blocks_are_the_whole_ones_without_those_channels(
    model: Transformer, folder: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    smaller = pruned_shape(model.shape, 0.4, 0.25)
    assert (smaller.layers, smaller.ffn_width) == (3, 96)
    found = influence_of(model, texts)
    gone = least(found.layers, 2)
    pruned = prune(model, smaller, gone, found.channels_C)
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        for layer, norms_C in enumerate(found.channels_C):
            weakest = sorted(range(128), key=lambda c: float(norms_C[c]))[:32]
            block: Any = silenced.layers[layer]
            block.mlp.down_proj.weight[:, weakest] = 0
    kept = prune(silenced, pruned_shape(model.shape, 0.4, 0), gone, found.channels_C)
    assert influence_of(pruned, texts).nats == pytest.approx(
        influence_of(kept, texts).nats, abs=1e-5
    )
    tokens = load_model_folder(folder)[2]
    save_model_folder(tmp_path / "out", dict(pruned.named_parameters()), smaller, tokens, {})
    transformers = pytest.importorskip("transformers")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert their_nats(again.eval(), texts) == pytest.approx(
        influence_of(pruned, texts).nats, abs=1e-4
    )


@pytest.mark.parametrize(
    ("layers", "ffn", "message"),
    [
        (0.0, 0.0, "takes nothing away"),
        (0.05, 0.0, "takes nothing away"),
        (0.9, 0.0, None),
        (0.0, 0.9, None),
    ],
)
def test_what_would_be_left(layers: float, ffn: float, message: str | None) -> None:
    shape = tiny_shape(layers=6, ffn_width=1536)
    if message is not None:
        with pytest.raises(SpecError, match=message):
            pruned_shape(shape, layers, ffn)
        return
    found = pruned_shape(shape, layers, ffn)
    assert found.layers == (1 if layers else 6)
    assert found.ffn_width == (128 if ffn else 1536)


def test_without_a_text_of_two_ids_nothing_is_pruned(folder: Path, tmp_path: Path) -> None:
    context = StageContext(RecordStore(tmp_path / "home", "tiny"))
    base: Any = SimpleNamespace(digest="0" * 32, folder=lambda name: folder)
    with pytest.raises(DataError, match="no text of two ids or more"):
        run(context, 0.25, 0.0, base, base, lambda: [[1], []])


def test_experts_are_not_pruned() -> None:
    with pytest.raises(SpecError, match="a mixture of experts is not pruned"):
        pruned_shape(replace(tiny_shape(), experts=Experts(count=4, active=2, width=16)), 0.25, 0)
