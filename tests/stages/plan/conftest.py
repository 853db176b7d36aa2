"""A machine, data and recipes that exist only on paper."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from whorl.core.context import StageContext
from whorl.core.digests import write_sealed
from whorl.core.records import RecordStore
from whorl.launch.calibrate import calibration_path
from whorl.launch.machine import machine_facts
from whorl.spec.load import parse_recipe
from whorl.spec.recipe import Recipe
from whorl.stages.plan.data import DataFacts, TokenFacts
from whorl.stages.plan.hardware import (
    AttentionRate,
    Calibration,
    Machine,
    MachineFacts,
    MatmulRate,
    MeasuredChoice,
    ReferenceStep,
    TrafficRate,
)

GIB = 2**30
STEPS = (
    (2, 64, 32, 192, 1024, 128, 8),
    (2, 128, 64, 384, 2048, 256, 4),
    (2, 256, 64, 768, 2048, 256, 8),
)


def choices(lanes: int = 1, **settings: str) -> tuple[MeasuredChoice, ...]:
    """What calibration took; lanes of one thread each, or one of two threads."""
    taken = {"precision": "fp32", "attention_dtype": "fp32", "muon_dtype": "fp32", **settings}
    ways = {"1 x 2": 0.1, "2 x 1": 0.2} if lanes == 1 else {"2 x 1": 0.1, "1 x 2": 0.2}

    def choice(key: str, name: str, seconds: dict[str, float], *fields: str) -> MeasuredChoice:
        carried = {field: taken[field] for field in fields}
        return MeasuredChoice(key=key, what="a step", taken=name, seconds=seconds, settings=carried)

    first = choice("train.lanes", next(iter(ways)), ways)
    return (
        first.model_copy(update={"settings": {"threads": 2, "lanes": lanes}}),
        choice("train.muon_dtype", taken["muon_dtype"], {"fp32": 0.1}, "muon_dtype"),
        choice("train.precision", "fp32", {"fp32": 0.1}, "precision", "attention_dtype"),
    )


def machine(
    speed: float = 1.0, memory_bytes: int = 16 * GIB, noise: float = 0.02, slow_steps: float = 1.0
) -> Machine:
    """Two cores of 190 GFLOP/s in all, times `speed`."""
    facts = MachineFacts(cpu="Paper CPU", cores=2, memory_bytes=memory_bytes, bf16=True)
    shapes = ((1024, 64, 64), (1024, 128, 384), (1024, 256, 768), (4096, 256, 256))
    calibration = Calibration(
        identity=facts.identity,
        measured_at="2026-11-22T20:00:00+00:00",
        torch="2.13.0",
        threads=2,
        matmuls=tuple(
            MatmulRate(precision=p, tokens=t, columns=c, rows=r, flops_per_s=speed * rate)
            for p, rate in (("fp32", 160e9), ("bf16", 320e9))
            for t, c, r in shapes
        ),
        orthogonalise=tuple(
            MatmulRate(precision="bf16", tokens=4, columns=c, rows=r, flops_per_s=speed * 200e9)
            for c, r in ((192, 64), (384, 128), (768, 256))
        ),
        attentions=tuple(
            AttentionRate(precision=p, seq_len=n, head_dim=64, masked=m, pairs_per_s=speed * 0.12e9)
            for p in ("fp32", "bf16")
            for n in (128, 256, 512)
            for m in (False, True)
        ),
        traffic=tuple(
            TrafficRate(num_bytes=size, bytes_per_s=speed * 30e9) for size in (2**18, 2**20, 2**24)
        ),
        exponentials_per_s=speed * 1.3e9,
        operation_s=4e-6 / speed,
        base_memory_bytes=340 * 2**20,
        choices=choices(),
        steps=tuple(
            ReferenceStep(
                layers=n,
                width=w,
                head_dim=h,
                ffn_width=f,
                vocab_size=v,
                seq_len=s,
                rows=r,
                precision="fp32",
                masked=False,
                step_s=slow_steps * 3.0 * n * w * (4 * w + 3 * f) * r * s * 2 / 100e9 / speed,
            )
            for n, w, h, f, v, s, r in STEPS
        ),
        noise=noise,
        took_s=8.0,
    )
    return Machine(facts=facts, calibration=calibration)


def keep_calibration(home: Path) -> None:
    """The figures from paper as those of this machine: nothing is measured, and a budget buys the
    same model whatever runs beside the test."""
    facts = machine_facts()
    figures = machine().calibration.model_copy(update={"identity": facts.identity, "threads": 1})
    path = calibration_path(home, facts)
    path.parent.mkdir(parents=True)
    write_sealed(path, figures.model_dump(mode="json"))


def compiling(here: Machine, saved: float, compiling_s: float = 10.0) -> Machine:
    """The machine after compiled blocks were timed: they save that share of a step."""
    calibration = here.calibration
    plain = calibration.steps[1]
    step = plain.model_copy(update={"compiled": True, "step_s": (1 - saved) * plain.step_s})
    worth = saved > 0.03
    choice = MeasuredChoice(
        key="train.compiled",
        what="a step",
        taken="compiled blocks" if worth else "blocks as written",
        seconds={"blocks as written": plain.step_s, "compiled blocks": step.step_s},
        settings={"compiled": worth},
    )
    update = {
        "choices": (*calibration.choices, choice),
        "compiled_steps": (plain, step),
        "compiling_s": compiling_s,
    }
    return here.model_copy(update={"calibration": calibration.model_copy(update=update)})


def text_facts(
    num_bytes: int = 30_000_000, document_bytes: int = 18_000, xz: float = 1.4, **changes: Any
) -> DataFacts:
    """Text of which a token of vocabulary V holds log2(V) / 4 bytes."""
    tokens, trained_share = [], changes.pop("trained_share", 1.0)
    for vocab_size in changes.pop("vocab_sizes", (1024, 2048, 4096)):
        per_token = math.log2(vocab_size) / 4
        length = max(3, round(document_bytes / per_token))
        tokens.append(
            TokenFacts(
                vocab_size=vocab_size,
                used_ids=vocab_size,
                tokens_per_document=length,
                trained_share=trained_share,
                bytes_per_token=per_token,
                document_tokens=(length // 2, length, 2 * length),
            )
        )
    values = {
        "digest": "d" * 64,
        "metric": "bits_per_byte",
        "num_documents": max(1, num_bytes // document_bytes),
        "num_bytes": num_bytes,
        "xz_bits_per_byte": xz,
        "tokens": tuple(tokens),
        "read_share": 1.0,
    }
    return DataFacts.model_validate({**values, **changes})


def recipe(*overrides: str, **keys: Any) -> Recipe:
    """A recipe of text with a budget of four minutes unless told otherwise."""
    value = {"name": "paper", "data": [{"source": "notes.txt"}], "budget": {"train_time": "4min"}}
    return parse_recipe({**value, **keys}, overrides=overrides).recipe


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext(RecordStore(tmp_path / "home", "paper"))
