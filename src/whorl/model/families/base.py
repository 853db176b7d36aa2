"""What families share: the keys of a config.json, and experts' weights one by one or stacked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whorl.arch.activations import hf_activation
from whorl.arch.hf_config import OWN
from whorl.arch.hf_rope import rope_parameters
from whorl.arch.shape import ModelShape, shape_values
from whorl.core.errors import RecordError

__all__ = ["Family", "Names", "expert_config", "window_config"]

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, HEAD = "model.", "lm_head."
MOE = "mlp."  # in our names


@dataclass(frozen=True)
class Names:
    """How experts are called on disk: <block>experts.<number>.<gate, up or down>.weight."""

    block: str = MOE
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


def no_more(shape: ModelShape) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One model_type of transformers."""

    model_type: str
    shape: str  # transformers' class
    more: Callable[[ModelShape], dict[str, Any]] = no_more  # keys of its own
    names: Names = Names()
    activation_key: str = "hidden_act"

    def config(self, shape: ModelShape) -> dict[str, Any]:
        """config.json for transformers 4 (rope_theta) and 5 (rope_parameters), sizes only."""
        a = shape.attention
        rope = rope_parameters(shape.rope)
        values: dict[str, Any] = {
            "architectures": [self.shape],
            "model_type": self.model_type,
            "hidden_size": shape.width,
            "intermediate_size": shape.ffn_width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": a.heads,
            "num_key_value_heads": a.kv_heads,
            "head_dim": a.head_dim,
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": shape.max_seq_len,
            "rope_theta": shape.rope.theta,
            "rope_parameters": rope,
            "rms_norm_eps": shape.norm_eps,
            "tie_word_embeddings": shape.tied_embeddings,
            self.activation_key: hf_activation(shape.activation),
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
        }
        if shape.block:  # transformers has no such model, and must not take it for another
            values |= {
                "architectures": ["WhorlForCausalLM"],
                "model_type": OWN,
                "shape": shape_values(shape),
            }
            return values
        if shape.rope.scaling != "default":  # as transformers 4 has it
            values["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
        return values | self.more(shape)

    def to_disk(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the names of a checkpoint."""
        out: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if name.endswith("mlp.experts.gate_up_proj"):
                gate, up = tensor.chunk(2, dim=1)
                out |= self._apart(name, self.names.gate, gate)
                out |= self._apart(name, self.names.up, up)
            elif name.endswith("mlp.experts.down_proj"):
                out |= self._apart(name, self.names.down, tensor)
            else:
                disk = name.replace(".mlp.gate.", f".{self.names.block}gate.")
                out[disk if disk.startswith(HEAD) else PREFIX + disk] = tensor.contiguous()
        return out

    def _apart(self, name: str, part: str, stacked: Tensor) -> dict[str, Tensor]:
        block = PREFIX + name[: name.index(MOE)] + self.names.block
        return {
            f"{block}experts.{number}.{part}.weight": tensor.contiguous()
            for number, tensor in enumerate(stacked)
        }

    def from_disk(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same back. Raises RecordError if an expert's tensor is missing."""
        import torch

        out: dict[str, Tensor] = {}
        experts: dict[tuple[str, str], dict[int, Tensor]] = {}
        pattern = re.compile(rf"(.*){re.escape(self.names.block)}experts\.(\d+)\.(\w+)\.weight")
        for disk, tensor in state.items():
            name = disk.removeprefix(PREFIX)
            if name.endswith("rotary_emb.inv_freq"):  # a table that old checkpoints hold
                continue
            if found := pattern.fullmatch(name):
                before, number, part = found.groups()
                experts.setdefault((before, part), {})[int(number)] = tensor
            else:
                out[name.replace(f"{self.names.block}gate.", f"{MOE}gate.")] = tensor
        for before in sorted({before for before, _ in experts}):
            gate, up, down = (
                _stacked(experts.get((before, part), {}), before + part)
                for part in (self.names.gate, self.names.up, self.names.down)
            )
            out[f"{before}{MOE}experts.gate_up_proj"] = torch.cat((gate, up), dim=1)
            out[f"{before}{MOE}experts.down_proj"] = down
        return out


def _stacked(tensors: Mapping[int, Tensor], name: str) -> Tensor:
    if sorted(tensors) != list(range(len(tensors))) or not tensors:
        raise RecordError(f"experts of {name} are missing", found=sorted(tensors))
    import torch

    return torch.stack([tensors[number] for number in range(len(tensors))])


def window_config(shape: ModelShape) -> dict[str, Any]:
    """Windows as Qwen 2 and 3 state them."""
    windowed = shape.attention.windowed
    layers = range(shape.layers)
    return {
        "use_sliding_window": bool(windowed),
        "sliding_window": shape.attention.window,
        "max_window_layers": min(windowed, default=shape.layers),
        "layer_types": [
            "sliding_attention" if layer in windowed else "full_attention" for layer in layers
        ],
    }


def expert_config(shape: ModelShape) -> dict[str, Any]:
    """Experts as Qwen states them."""
    experts = shape.experts
    if experts is None:
        return {"num_experts": 0}
    return {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.width,
        "norm_topk_prob": experts.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense),
        "output_router_logits": False,
    }
