"""Bounds of the keys of training, and the parts they name."""

from __future__ import annotations

import pytest

from whorl.spec.recipe import TrainSpec


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", -1),
        ("weight_decay", float("nan")),
        ("clip_norm", -3),
        ("final_learning_rate_share", 2),
        ("objective", "auto"),
        ("objective", "pretrian"),
        ("optimizer", "moun"),
    ],
)
def test_training_keys_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{key}|{value}"):
        TrainSpec.model_validate({key: value})


def test_what_ships_is_what_recipes_may_say() -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from whorl.spec.train_keys import OBJECTIVES, OPTIMIZERS
    from whorl.stages.train.objectives.registry import BUILT_IN as objectives
    from whorl.stages.train.optimizers.registry import BUILT_IN as optimizers

    assert tuple(sorted(objectives)) == OBJECTIVES
    assert tuple(sorted(optimizers)) == OPTIMIZERS
