"""What is learned, one file each; from outside by an entry point of the group whorl.objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from whorl.core.plugins import find_part
from whorl.model.transformer import Transformer
from whorl.spec.train_keys import DistilKeys, DpoKeys, TrainConfig
from whorl.stages.train.objectives.distil import Distil
from whorl.stages.train.objectives.dpo import Dpo
from whorl.stages.train.objectives.pretrain import Pretrain
from whorl.stages.train.objectives.sft import Sft
from whorl.stages.train.ports import Objective

__all__ = ["find_objective", "needs_reference"]

Make = Callable[[TrainConfig, Transformer | None], Objective]
BUILT_IN: Mapping[str, Make] = {
    "distil": lambda config, reference: Distil(config.distil or DistilKeys()),
    "dpo": lambda config, reference: Dpo(config.dpo or DpoKeys(), reference),
    "pretrain": lambda config, reference: Pretrain(),
    "sft": lambda config, reference: Sft(),
}


def needs_reference(config: TrainConfig) -> bool:
    """Whether a frozen copy of the first weights is needed; adapters have those beside them."""
    return config.objective == "dpo" and config.lora is None


def find_objective(config: TrainConfig, reference: Transformer | None = None) -> Objective:
    """The objective of a config. Raises SpecError if there is none of that name."""
    found = find_part("whorl.objectives", config.objective, BUILT_IN)
    if config.objective in BUILT_IN:
        return cast(Make, found)(config, reference)
    return cast(Objective, found)
