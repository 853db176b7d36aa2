"""What is taken on machines of three kinds: an AVX2 laptop, a server with bf16, an Arm board.

The seconds of the first two were measured on 25 November 2026 (docs/log.md); those of the third are
made up so that bf16 products are faster and the whole step is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from whorl.launch.candidates import choices, layouts
from whorl.launch.probes import Stopwatch
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import MachineFacts, MeasuredChoice

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass
class Paper(Stopwatch):
    """A machine that exists only as a table: what is run is looked up, not run."""

    table: Mapping[str, float] = None  # type: ignore[assignment]

    def fastest(self, run: Callable[[], object], seconds_each: float | None = None) -> float:
        if isinstance(run, Step):
            return self.table[run.name]
        function = run.func.__name__  # type: ignore[attr-defined]
        dtype = run.keywords.get("dtype") or run.args[0].dtype  # type: ignore[attr-defined]
        return self.table[f"{function} {DTYPES[dtype]}"]


@dataclass
class Step:
    name: str

    def __call__(self) -> None:
        raise AssertionError("nothing is computed here")


def step_of(settings: Mapping[str, Any]) -> Step:
    layout = f"{settings['lanes']}x{settings['threads'] // settings['lanes']}"
    if settings["precision"] == "fp32":
        return Step(f"step {layout} fp32")
    return Step(f"step {layout} bf16, attention {settings['attention_dtype']}")


def facts(cores: int, bf16: bool, physical_cores: int | None = None) -> MachineFacts:
    return MachineFacts(
        cpu="paper",
        cores=cores,
        physical_cores=physical_cores or cores,
        memory_bytes=2**34,
        bf16=bf16,
    )


LAPTOP = {
    "step 1x2 fp32": 0.0883,
    "step 2x1 fp32": 0.0929,
    "orthogonalise fp32": 0.00586,
    "orthogonalise bf16": 0.0985,
    "mm fp32": 1.0,
    "mm bf16": 52.5,
}
SERVER = {
    "step 1x2 fp32": 0.0615,
    "step 2x1 fp32": 0.0658,
    "step 2x1 bf16, attention bf16": 0.0414,
    "step 2x1 bf16, attention fp32": 0.0449,
    "orthogonalise fp32": 0.00179,
    "orthogonalise bf16": 0.00096,
    "mm fp32": 1.0,
    "mm bf16": 0.3,
}
ARM = {
    "step 4x1 fp32": 0.30,
    "step 1x4 fp32": 0.20,
    "step 1x4 bf16, attention bf16": 0.21,
    "step 1x4 bf16, attention fp32": 0.19,
    "orthogonalise fp32": 0.012,
    "orthogonalise bf16": 0.008,
    "mm fp32": 1.0,
    "mm bf16": 0.6,
}


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def taken(machine: MachineFacts, table: Mapping[str, float]) -> dict[str, MeasuredChoice]:
    return {c.key: c for c in choices(machine, Paper(table=table), step_of, "a paper model")}


@pytest.mark.parametrize(
    ("machine", "table", "expected"),
    [
        (facts(2, False), LAPTOP, ("2 lanes", "fp32", "fp32", "fp32")),
        (facts(2, True), SERVER, ("2 lanes", "bf16", "bf16", "bf16")),
        (facts(4, True), ARM, ("1 lanes", "fp32", "fp32", "bf16")),
    ],
    ids=["AVX2 laptop", "server with bf16", "Arm"],
)
def test_what_is_fastest_is_taken(
    machine: MachineFacts, table: Mapping[str, float], expected: tuple[str, ...]
) -> None:
    found = taken(machine, table)
    settings: dict[str, Any] = {}
    for choice in found.values():
        settings |= choice.settings
    lanes, precision, attention, muon = expected
    assert f"{settings['lanes']} lanes" == lanes and settings["threads"] == machine.cores
    assert (settings["precision"], settings["attention_dtype"]) == (precision, attention)
    assert settings["muon_dtype"] == muon
    assert settings.keys() <= TrainConfig.model_fields.keys()


def test_slow_bf16_is_not_even_timed_in_a_step() -> None:
    """A step in emulated bf16 takes seconds; two products say enough."""
    precision = taken(facts(2, False), LAPTOP)["train.precision"]
    assert list(precision.seconds) == ["fp32"] and "52 x" in precision.reason


def test_a_reason_says_every_time_fastest_first() -> None:
    reason = taken(facts(2, True), SERVER)["train.precision"].reason
    assert reason.startswith("bf16, attention bf16 taken")
    assert reason.index("bf16, attention bf16 41.4 ms") < reason.index("fp32 65.8 ms")


def test_layouts_know_threads_of_one_core() -> None:
    assert layouts(1, 1) == [{"threads": 1, "lanes": 1}]
    assert layouts(8, 4) == [
        {"threads": 8, "lanes": 8},
        {"threads": 4, "lanes": 4},
        {"threads": 8, "lanes": 1},
    ]
