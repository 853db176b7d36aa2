"""The activations of feed-forward blocks: our names, torch's functions, transformers' names."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ACTIVATIONS", "Activation", "activation_of", "hf_activation"]


@dataclass(frozen=True)
class Activation:
    """function: of torch.nn.functional, with its options. hf: how configs call it, ours first."""

    function: str
    hf: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


ACTIVATIONS = {  # that are computed; a shape may name others
    "silu": Activation("silu", ("silu", "swish")),
    "gelu": Activation("gelu", ("gelu",)),
    "gelu_tanh": Activation("gelu", ("gelu_pytorch_tanh", "gelu_new"), {"approximate": "tanh"}),
    "relu": Activation("relu", ("relu",)),
}


def activation_of(hf_name: str) -> str:
    """Our name of what a config names; the same where we have none."""
    return next((name for name, item in ACTIVATIONS.items() if hf_name in item.hf), hf_name)


def hf_activation(name: str) -> str:
    """The opposite: the name to write into a config."""
    return ACTIVATIONS[name].hf[0] if name in ACTIVATIONS else name
