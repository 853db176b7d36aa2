"""A base with fewer layers, or narrower feed-forward blocks: what a training then starts from.

What goes is what does least on training text of the recipe: layers whose output points where their
input did (block influence, ShortGPT 2403.03853), channels that add least to a block's output. What
that costs before any training stands in the record.

Axes: N tokens, D width, C channels of a feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.arch.pruning import pruned_shape
from whorl.arch.shape import ModelShape
from whorl.core.context import StageContext
from whorl.core.errors import DataError
from whorl.core.records import Record, RecordKey
from whorl.core.rounding import Texts
from whorl.model.blocks.feed_forward import FeedForward
from whorl.model.hf import load_model_folder, model_of, save_model_folder
from whorl.model.transformer import Block, Transformer

__all__ = ["LOGIC_VERSION", "MODEL", "Influence", "influence_of", "prune", "run"]

LOGIC_VERSION = 1
MODEL = "model"  # its folder in the record
SIGNIFICANT = 6  # digits of figures kept: the rest depends on the number of threads


@dataclass(frozen=True)
class Influence:
    """What each part does on some text. channels_C: per layer, norms of what each one adds."""

    layers: tuple[float, ...]  # 1 - cosine of output and input, the mean over tokens
    channels_C: tuple[Tensor, ...]
    nats: float  # of the text's ids, each


def run(
    context: StageContext,
    layers: float,
    ffn: float,
    base: Record,
    prepared: Record,
    texts: Callable[[], Texts],
) -> Record:
    """model/ of the record: the base's with those shares gone; found again if it is there.

    texts: ids of training documents. Metrics: which layers went and every layer's influence, nats
    of those texts before and after. Raises SpecError if it cannot be pruned so, DataError without
    any text.
    """
    inputs = {"base": base.digest, "prepare": prepared.digest}
    key = RecordKey("prune", {"layers": layers, "ffn": ffn}, inputs, LOGIC_VERSION)
    if (found := context.store.find(key)) is not None:
        return found
    model, shape, tokens, card = load_model_folder(base.folder(MODEL))
    smaller = pruned_shape(shape, layers, ffn)
    asked = [list(ids) for ids in texts() if len(ids) > 1]
    if not asked:
        raise DataError(
            "what to prune is found on training texts, and there is none",
            found="no text of two ids or more",
            expected="at least one",
            do="give the recipe longer documents",
        )
    influence = influence_of(model, asked)
    gone = least(influence.layers, shape.layers - smaller.layers)
    pruned = prune(model, smaller, gone, influence.channels_C)
    after = _nats(pruned, asked)
    context.log(
        f"pruned: layers {', '.join(map(str, gone)) or 'none'} of {shape.layers} went, "
        f"{smaller.ffn_width:,} of {shape.ffn_width:,} channels stay; "
        f"{influence.nats:.3f} nats an id before, {after:.3f} after"
    )
    with context.store.write(key) as writer:
        lineage = {**card.lineage, **key.inputs, "prune": key.digest}
        weights = dict(pruned.named_parameters())
        save_model_folder(writer.path / MODEL, weights, smaller, tokens, lineage)
        writer.metrics.update(_metrics(influence, gone, smaller, after, asked))
    return context.store.published(key)


def _metrics(
    influence: Influence, gone: Sequence[int], shape: ModelShape, after: float, texts: Texts
) -> dict[str, Any]:
    rounded = [float(f"{value:.{SIGNIFICANT}g}") for value in influence.layers]
    return {
        "layers_gone": list(gone),
        "layers_kept": shape.layers,
        "ffn_width": shape.ffn_width,
        "influence": rounded,
        "nats_before": round(influence.nats, SIGNIFICANT),
        "nats_after": round(after, SIGNIFICANT),
        "ids": sum(len(ids) - 1 for ids in texts),
    }


def least(values: Sequence[float], count: int) -> tuple[int, ...]:
    """Places of the smallest values, in order."""
    return tuple(
        sorted(sorted(range(len(values)), key=lambda place: (values[place], place))[:count])
    )


@torch.no_grad()
def influence_of(model: Transformer, texts: Texts) -> Influence:
    """Of one forward over each text, alone."""
    watched = [_Watched(block) for block in model.layers if isinstance(block, Block)]
    try:
        nats = _nats(model, texts)
    finally:
        for each in watched:
            each.close()
    return Influence(
        tuple(each.angle / each.count for each in watched),
        tuple(each.norms_C for each in watched),
        nats,
    )


class _Watched:
    """A layer, and what is seen of it while text passes."""

    def __init__(self, block: Block) -> None:
        assert isinstance(block.mlp, FeedForward)
        self.angle, self.count = 0.0, 0
        self._down = block.mlp.down_proj
        self._squares_C = torch.zeros(self._down.in_features, dtype=torch.float64)
        self._joined, self._mlp = block.mlp.joined, block.mlp
        block.mlp.joined = False  # then down_proj is called, and seen
        self._hooks = [
            block.register_forward_hook(self._see_layer),
            self._down.register_forward_hook(self._see_channels),
        ]

    def _see_layer(self, _: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before_ND, after_ND = inputs[0].flatten(0, -2), output.flatten(0, -2)
        cosines_N = torch.cosine_similarity(before_ND, after_ND, dim=-1)
        self.angle += float((1 - cosines_N).double().sum())
        self.count += len(cosines_N)

    def _see_channels(self, _: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._squares_C += inputs[0].flatten(0, -2).double().square().sum(0)

    @property
    def norms_C(self) -> Tensor:
        """The root of the mean square of what each channel adds to the block's output."""
        mean_C = self._squares_C / self.count
        return (mean_C * self._down.weight.double().square().sum(0)).sqrt()

    def close(self) -> None:
        self._mlp.joined = self._joined
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def _nats(model: Transformer, texts: Texts) -> float:
    """Of every id but the first of each text: the mean."""
    total, count = 0.0, 0
    for ids in texts:
        row = torch.tensor([list(ids)])
        total += float(model.nats(row[:, :-1], row[:, 1:]))
        count += row.shape[1] - 1
    return total / count


@torch.no_grad()
def prune(
    model: Transformer, smaller: ModelShape, gone: Sequence[int], channels_C: Sequence[Tensor]
) -> Transformer:
    """The model without some layers, and with the channels of each layer that add most."""
    state: dict[str, Tensor] = {**dict(model.named_parameters())}
    kept = [number for number in range(model.shape.layers) if number not in gone]
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("layers."):
            weights[name] = tensor
            continue
        _, number, rest = name.split(".", 2)
        if (layer := int(number)) in gone:
            continue
        if rest.startswith("mlp.") and smaller.ffn_width < model.shape.ffn_width:
            order = channels_C[layer].argsort(descending=True, stable=True)[: smaller.ffn_width]
            places = order.sort().values
            if rest == "mlp.down_proj.weight":
                tensor = tensor[:, places]
            elif not rest.startswith("mlp.down_proj"):  # its bias is of the width
                tensor = tensor[places]
        weights[f"layers.{kept.index(layer)}.{rest}"] = tensor.detach().clone()
    return model_of(weights, smaller, Path(MODEL))
