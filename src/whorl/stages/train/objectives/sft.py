"""Supervised fine-tuning: the next token of what the assistant says.

The rows say which tokens those are: what a chat template gives users and tools is not trained.
"""

from __future__ import annotations

from whorl.stages.train.objectives.pretrain import Pretrain

__all__ = ["Sft"]


class Sft(Pretrain):
    """As pretraining, of the trained tokens alone."""

    name = "sft"
