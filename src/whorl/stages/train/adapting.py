"""Adapters put into a model before it is taught, and merged into its weights afterwards.

Axes: B rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from whorl.arch.adapter_cost import check_last_layers, check_targets
from whorl.core.digests import canonical_json, digest_bytes, write_bytes
from whorl.core.errors import DivergedError
from whorl.core.memory import give_back
from whorl.model.adapters import AdaptedLinear
from whorl.model.cached import GrowingCache, next_logits
from whorl.model.families import family_of
from whorl.model.packed import PackedLinear
from whorl.model.transformer import Transformer
from whorl.spec.train_keys import LoraKeys

__all__ = ["MERGE_BOUND", "MergeCheck", "add_adapters", "merge", "save_adapter"]

ROUTERS = ("gate", "shared_expert_gate")
MERGE_BOUND = 1e-3  # of the largest logit: how far merged logits may be from the adapter's
GOLDEN_TOKENS, PROMPT_TOKENS = 32, 16


@dataclass(frozen=True)
class MergeCheck:
    """What merging did, measured on held-out rows."""

    changed_share: float  # of the elements of adapted weights, those that are other numbers now
    max_logit_difference: float  # between adapter and merged weights
    max_logit: float
    golden_tokens: int  # greedy tokens of the adapter, replayed
    equal_tokens: int  # of those, what the merged model says too


def add_adapters(model: Transformer, keys: LoraKeys, seed: int) -> list[str]:
    """Freeze the model and stand adapters beside its linear layers; gives those layers' names.

    A frozen layer of the blocks is packed into fewer bits if the keys say so. Raises SpecError if
    a target is no linear layer of the model.
    """
    model.requires_grad_(False)
    model.join_products(False)
    linears = {n: item for n, item in model.named_modules() if isinstance(item, nn.Linear)}
    ours = [n for n in linears if n.startswith("layers.") and _last(n) not in ROUTERS]
    targets = _named(linears, keys.targets) if isinstance(keys.targets, tuple) else ours
    if keys.last_layers is not None:
        targets = _in_last_layers(targets, keys.last_layers, model.shape.layers)
    for name in list(linears):
        linear = linears.pop(name)  # the last reference to a layer that is packed
        base: nn.Linear | PackedLinear = linear
        if keys.base != "none" and name in ours:
            base = PackedLinear(linear, keys.base)
        if name in targets:
            own_seed = int(digest_bytes(f"{seed} {name}.lora_A".encode())[:15], 16)
            generator = torch.Generator().manual_seed(own_seed)
            model.set_submodule(
                name,
                AdaptedLinear(base, keys.rank, keys.alpha, keys.dropout, keys.dora, generator),
            )
        elif base is not linear:
            model.set_submodule(name, base)
    if keys.base != "none":
        del linear, base  # the last of them
        give_back()
    return targets


def _named(linears: Mapping[str, nn.Linear], wanted: tuple[str, ...]) -> list[str]:
    check_targets(wanted, {_last(name) for name in linears})
    return [name for name in linears if _last(name) in wanted]


def _in_last_layers(names: list[str], last: int, layers: int) -> list[str]:
    """Those in the last blocks, and those in none. Raises SpecError if there are not so many."""
    check_last_layers(last, layers)
    first = layers - last
    of_block = {name: name.split(".")[1] for name in names if name.startswith("layers.")}
    return [name for name in names if name not in of_block or int(of_block[name]) >= first]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


@torch.no_grad()
def merge(model: Transformer, rows: NDArray[np.int64]) -> MergeCheck:
    """Make every weight of the model a plain one again, with its adapter in it.

    rows: held-out ids [n, tokens] on which logits and greedy tokens are compared before and after.
    Raises DivergedError if nothing was changed, or if the merged model says something else.
    """
    give_back()  # what the steps kept to themselves: unpacked weights need as much
    device = model.embed_tokens.weight.device
    ids_BT = torch.from_numpy(rows).to(device)
    before = model(ids_BT), model.lm_head_weight
    golden_BT = _greedy(model, ids_BT[:, :PROMPT_TOKENS], GOLDEN_TOKENS)
    changed = elements = 0
    for name in _layer_names(model):
        layer = cast(AdaptedLinear | PackedLinear, model.get_submodule(name))
        weight = layer.weight
        if isinstance(layer, AdaptedLinear):
            changed += int((weight != layer.base.weight).sum())
            elements += weight.numel()
        model.set_submodule(name, _plain(weight, layer.bias))
    if not changed:
        raise DivergedError(
            "merging the adapters changed nothing: they learned nothing",
            found=f"all {elements:,} elements of the adapted weights are as they were",
            do="raise train.learning_rate or train.steps; no model is written",
        )
    apart, largest = _logits_apart(model, ids_BT, *before)
    equal, behind = _replayed(model, golden_BT)
    count = golden_BT[:, PROMPT_TOKENS:].numel()
    check = MergeCheck(changed / elements, apart, largest, count, equal)
    bound = MERGE_BOUND * max(1.0, largest)
    if not (apart <= bound and behind <= 2 * bound):
        raise DivergedError(
            "the merged model says something else than the adapters",
            found=f"logits {check.max_logit_difference:.3g} apart, {check.equal_tokens} of "
            f"{check.golden_tokens} greedy tokens equal",
            expected=f"at most {bound:.3g}, {MERGE_BOUND:g} of the largest logit, and the same "
            "tokens but for ties within that",
            do="report it: no model is written",
        )
    return check


def _logits_apart(
    model: Transformer, ids_BT: Tensor, before_BTD: Tensor, head_VD: Tensor
) -> tuple[float, float]:
    """(how far the logits are from those of before, the largest of those): one row at a time."""
    found = []
    for before_TD, after_TD in zip(before_BTD, model(ids_BT), strict=True):
        before_TV = model.logits(before_TD, head_VD)
        apart_TV = model.logits(after_TD).sub_(before_TV)
        found.append((float(apart_TV.abs_().max()), float(before_TV.abs_().max())))
    apart, largest = torch.tensor(found).amax(dim=0).tolist()  # one that is no number stays none
    return apart, largest


def _replayed(model: Transformer, golden_BT: Tensor) -> tuple[int, float]:
    """(greedy tokens that the model says too, how far one is behind the likeliest at most)."""
    equal, behind = 0, []
    for golden_T, hidden_TD in zip(golden_BT, model(golden_BT), strict=True):
        logits_TV = model.logits(hidden_TD[PROMPT_TOKENS - 1 : -1])
        said_T = golden_T[PROMPT_TOKENS:]
        equal += int((logits_TV.argmax(dim=-1) == said_T).sum())
        away_T = logits_TV.amax(dim=-1) - logits_TV.gather(1, said_T[:, None])[:, 0]
        behind.append(float(away_T.max()))
    return equal, float(torch.tensor(behind).max())


def _layer_names(model: Transformer) -> list[str]:
    """Of linear layers that are no plain ones; an adapter's base goes with it.

    Names, as a layer that was merged is to be gone before the next one is.
    """
    named = dict(model.named_modules())
    bases = {f"{name}.base" for name, layer in named.items() if isinstance(layer, AdaptedLinear)}
    return [
        name
        for name, layer in named.items()
        if isinstance(layer, AdaptedLinear | PackedLinear) and name not in bases
    ]


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach())
    return linear


def _greedy(model: Transformer, ids_BT: Tensor, count: int) -> Tensor:
    """The ids and `count` more: the likeliest next one each time."""
    cache, fed_BT = GrowingCache(), ids_BT
    for _ in range(count):
        logits_BTV = next_logits(model, fed_BT, cache, only_last=True)
        fed_BT = logits_BTV.argmax(dim=-1)
        ids_BT = torch.cat((ids_BT, fed_BT), dim=1)
    return ids_BT


def _taught_layers(keys: LoraKeys, layers: int) -> list[int] | None:
    """As PEFT names them; None: all."""
    return None if keys.last_layers is None else [*range(layers - keys.last_layers, layers)]


def save_adapter(
    path: Path, tensors: Mapping[str, Tensor], model: Transformer, keys: LoraKeys
) -> None:
    """The adapters as PEFT reads them: adapter_config.json, adapter_model.safetensors.

    tensors: by their names in the model.
    """
    disk, modules = {}, set()
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        (of_module,) = family_of(model.shape).to_disk({f"{module}.weight": tensor})
        part = "lora_magnitude_vector" if part == "magnitude" else f"{part}.weight"
        disk[f"base_model.model.{of_module.removesuffix('.weight')}.{part}"] = tensor
        modules.add(_last(module))
    path.mkdir(parents=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in disk.items()}
    data = safetensors_bytes(plain, metadata={"format": "pt"})
    write_bytes(path / "adapter_model.safetensors", data)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": keys.rank,
        "lora_alpha": keys.alpha,
        "lora_dropout": keys.dropout,
        "use_dora": keys.dora,
        "target_modules": sorted(modules),
        "layers_to_transform": _taught_layers(keys, model.shape.layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_bytes(path / "adapter_config.json", canonical_json(config).encode())
