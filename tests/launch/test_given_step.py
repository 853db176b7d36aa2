"""A base's step is done in a process of its own, kept where it was quiet, done again where not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whorl.launch import given_step
from whorl.launch.given_step import rehearsal_of
from whorl.launch.rehearsal import merged, rehearsed
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.given import NotRehearsed, Rehearsal
from whorl.testing.models import tiny_shape

SHAPE = tiny_shape(layers=1)


def config(**changes: Any) -> TrainConfig:
    values = {
        "seq_len": 32,
        "batch_tokens": 128,
        "micro_batch_rows": 2,
        "steps": 50,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "embedding_learning_rate": 1e-4,
        "threads": 1,
    }
    return TrainConfig.model_validate(values | changes)


def test_a_step_is_really_done(tmp_path: Path) -> None:
    found = rehearsal_of(tmp_path, SHAPE, config(), 1)
    assert isinstance(found, Rehearsal)
    assert 0 < found.step_s < found.took_s and 0 < found.cpu_share < 2
    assert 100 * 2**20 < found.peak_bytes < 4 * 2**30  # torch itself takes the most


def test_it_is_found_again_unless_it_was_disturbed(tmp_path: Path, monkeypatch: Any) -> None:
    shares = iter((0.3, 1.0))
    done: list[Any] = []

    def apart(work: Any) -> Rehearsal:
        done.append(work)
        return Rehearsal(step_s=1.0, cpu_share=next(shares), peak_bytes=1, took_s=3.0)

    monkeypatch.setattr(given_step, "_apart", apart)
    for _ in range(4):
        rehearsal_of(tmp_path, SHAPE, config(), 1)
    assert len(done) == 2  # the first was disturbed, the second is kept
    rehearsal_of(tmp_path, SHAPE, config(steps=99, seed=3, validate_rows=7), 1)
    assert len(done) == 2  # what changes no step is not asked for again
    with pytest.raises(StopIteration):
        rehearsal_of(tmp_path, SHAPE, config(micro_batch_rows=4), 1)


def test_where_it_cannot_be_done_the_reason_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    broken = replace(SHAPE, block="no-such-block")
    found = rehearsal_of(tmp_path, broken, config(), 1)
    assert isinstance(found, NotRehearsed) and "no-such-block" in found.reason
    assert "\n" not in found.reason and not list(tmp_path.rglob("given-*"))
    with monkeypatch.context() as patch:
        patch.setattr(given_step, "TIMEOUT_S", 0.01)
        assert rehearsal_of(tmp_path, SHAPE, config(), 1) == NotRehearsed(
            reason="it was not done after 0.01 s"
        )
    for ends, reason in (("kill -9 $$", "its process was killed"), ("exit 3", "ended with 3")):
        (script := tmp_path / "python").write_text(f"#!/bin/sh\n{ends}\n")
        script.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(script))
        found = rehearsal_of(tmp_path, SHAPE, config(), 1)
        assert isinstance(found, NotRehearsed) and reason in found.reason


@pytest.mark.parametrize(
    ("seconds", "since_s", "more"),
    [
        ((), 1, True),
        ((9.0, 1.0), 1, True),
        ((9.0, 1.0, 1.05), 1, False),
        ((9.0, 1.0, 2.0), 1, True),
        ((9.0, 1.0, 2.0), 31, False),
        ((9.0, 4.0, 1.0, 1.01), 1, False),
        ((9.0, 1.0, 2.0, 3.0, 4.0, 5.0), 1, False),
    ],
)
def test_steps_are_done_until_two_agree(
    seconds: tuple[float, ...], since_s: float, more: bool
) -> None:
    assert given_step._goes_on([(value, value) for value in seconds], since_s) is more


@pytest.mark.parametrize(
    ("objective", "lora"),
    [
        ({"objective": "sft"}, None),
        ({"objective": "dpo"}, {"rank": 2, "base": "nf4"}),
        ({"objective": "dpo"}, None),
        ({"objective": "distil", "distil": {"teacher": "x", "top_k": 3}}, {"rank": 2}),
    ],
    ids=["sft", "dpo, packed", "dpo", "distil"],
)
def test_what_is_rehearsed_is_what_is_learned(objective: Any, lora: Any) -> None:
    """A step and the merge, of rows that the objective takes; its loss is what it must be."""
    learned = config(**objective, lora=lora, micro_batch_rows=3)
    trainer, batch = rehearsed(SHAPE, learned, 1, trained_share=0.3)
    tokens = sum(len(micro.row_numbers) for micro in batch.micro_batches) * 32
    assert tokens == 128 and 0.2 < batch.trained_tokens / tokens < 0.5
    loss = trainer.step(0, batch).loss
    nothing = 1 / SHAPE.vocab_size  # new weights: all ids are equally likely
    expected = {
        "sft": math.log(SHAPE.vocab_size),
        "dpo": math.log(2),  # both models say the same
        "distil": 0.5 * math.log(0.5 / 3 / nothing) + 0.5 * math.log(0.5 / (1 - 3 * nothing)),
    }[learned.objective]
    assert loss == pytest.approx(expected, abs=0.02)
    assert (batch.num_pairs == 4) is (learned.objective == "dpo")
    merged(trainer, 2, 20)
    names = {name for name, _ in trainer.model.named_parameters()}
    assert not any("lora" in name for name in names)


def test_another_objective_or_share_is_another_step(tmp_path: Path, monkeypatch: Any) -> None:
    done: list[Any] = []

    def apart(work: Any) -> Rehearsal:
        done.append(work)
        return Rehearsal(step_s=1.0, peak_bytes=1, took_s=3.0)

    monkeypatch.setattr(given_step, "_apart", apart)
    distil = {"objective": "distil", "distil": {"teacher": "x"}}
    asked: list[tuple[dict[str, Any], float]] = [
        ({"objective": "pretrain"}, 1.0),
        ({"objective": "sft"}, 0.98),
        ({"objective": "sft"}, 0.42),
        ({"objective": "sft"}, 0.44),
        ({"objective": "dpo"}, 0.42),
        (distil, 0.42),
        (distil | {"distil": {"teacher": "another", "top_k": 32}}, 0.42),
    ]
    for objective, share in asked:
        rehearsal_of(tmp_path, SHAPE, config(**objective), 1, share)
    shares = [(work["train"]["objective"], work["trained_share"]) for work in done]
    assert shares == [("pretrain", 1.0), ("pretrain", 0.45), ("dpo", 0.45), ("distil", 0.45)]
