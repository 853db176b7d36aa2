"""What is taken on machines of three kinds: an AVX2 laptop, a server with bf16, an Arm board.

Each is a table of seconds, on a clock of its own; quiet, and with sixteen busy processes beside it.
The seconds of the first two were measured on 25 November 2026 (docs/log.md); those of the third are
made up so that bf16 products are faster and the whole step is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from whorl.launch.calibrate import LIMIT_S, MEASURE_S, calibration_of
from whorl.launch.candidates import Way, choices, layouts, muon_name, product_name
from whorl.launch.figures import USUAL, Rate, reference_step
from whorl.launch.measuring import measure
from whorl.launch.turns import Try, Turns
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import Calibration, MachineFacts, MeasuredChoice, settings_of
from whorl.stages.plan.step_time import fit_level, predicted_step_s, reference_load

LAPTOP = {
    "step 1 x 2 fp32": 0.0883,
    "step 2 x 1 fp32": 0.0929,
    "muon fp32": 0.00586,
    "muon bf16": 0.0985,
    "product fp32": 0.001,
    "product bf16": 0.0525,
}
SERVER = {
    "step 1 x 2 fp32": 0.0615,
    "step 2 x 1 fp32": 0.0658,
    "step 2 x 1 bf16, attention bf16": 0.0414,
    "step 2 x 1 bf16, attention fp32": 0.0449,
    "muon fp32": 0.00179,
    "muon bf16": 0.00096,
    "product fp32": 0.001,
    "product bf16": 0.0003,
}
ARM = {
    "step 4 x 1 fp32": 0.30,
    "step 1 x 4 fp32": 0.20,
    "step 1 x 4 bf16, attention bf16": 0.21,
    "step 1 x 4 bf16, attention fp32": 0.19,
    "step 4 x 1 bf16, attention bf16": 0.31,
    "step 4 x 1 bf16, attention fp32": 0.29,
    "muon fp32": 0.012,
    "muon bf16": 0.008,
    "product fp32": 0.001,
    "product bf16": 0.0006,
}


class PaperBench:
    """A machine that exists only as a table, and a clock that what it does moves.

    stretch: how often longer the clock runs than the processor; of threads that spin ten times as
    long again, and nobody knows how long the processor worked.
    """

    def __init__(
        self,
        table: Mapping[str, float],
        stretch: Callable[[], float] = lambda: 1.0,
        speed: float = 1.0,
    ) -> None:
        self.table, self.stretch, self.speed = table, stretch, speed
        self.now_s = 0.0
        self.longest_s = 0.0

    def way(self, way: Way) -> Callable[[], Try]:
        each = 8 if way.settings["threads"] < 8 else way.settings["threads"]
        return self._doing(self.table[f"step {way.label}"] * way.rows / each, way.spins)

    def product(self, dtype: str) -> Callable[[], Try]:
        return self._doing(self.table[f"product {dtype}"])

    def muon(self, dtype: str) -> Callable[[], Try]:
        return self._doing(self.table[f"muon {dtype}"])

    def rate(self, rate: Rate, settings: Mapping[str, Any]) -> Callable[[], Try]:
        spins = settings["threads"] > settings["lanes"]
        return self._doing(rate.amount / USUAL[rate.kind] / self.speed, spins)

    def reference(self, values: tuple[Any, ...], settings: Mapping[str, Any]) -> Callable[[], Try]:
        step = reference_step(values, settings)
        seconds = 3e-11 * step.layers * step.width**2 * step.rows * step.seq_len * 24
        return self._doing(seconds / self.speed, settings["threads"] > settings["lanes"])

    def _doing(self, cpu_s: float, spins: bool = False) -> Callable[[], Try]:
        def once() -> Try:
            longer = self.stretch()
            wall_s = cpu_s * longer * (10 if spins and longer > 1.5 else 1)
            self.now_s += wall_s
            self.longest_s = max(self.longest_s, wall_s)
            return Try(wall_s, None if spins else cpu_s)

        making_s = 0.03 * self.stretch()
        self.now_s += making_s
        self.longest_s = max(self.longest_s, making_s)
        return once


def facts(cores: int, bf16: bool, physical_cores: int | None = None) -> MachineFacts:
    return MachineFacts(
        cpu="paper",
        cores=cores,
        physical_cores=physical_cores or cores,
        memory_bytes=2**34,
        bf16=bf16,
    )


def load_of_sixteen() -> Callable[[], float]:
    """Eighteen threads on two cores, and never alike."""
    draw = random.Random(7)
    return lambda: draw.uniform(5.0, 13.0)


def measured(
    machine: MachineFacts, bench: PaperBench, begin_s: float = 2.0, busy: float = 0.02
) -> tuple[Calibration, Turns]:
    """begin_s: when torch has been loaded."""
    bench.now_s = begin_s
    turns = Turns(MEASURE_S, clock=lambda: bench.now_s)
    measure(machine, bench, turns)
    return calibration_of(machine, turns.known, busy, bench.now_s), turns


MACHINES = pytest.mark.parametrize(
    ("machine", "table", "lanes", "precision", "attention", "muon"),
    [
        (facts(2, False), LAPTOP, 2, "fp32", "fp32", "fp32"),
        (facts(2, True), SERVER, 2, "bf16", "bf16", "bf16"),
        (facts(4, True), ARM, 1, "fp32", "fp32", "bf16"),
    ],
    ids=["AVX2 laptop", "server with bf16", "Arm"],
)


@MACHINES
def test_what_is_fastest_is_taken(
    machine: MachineFacts,
    table: Mapping[str, float],
    lanes: int,
    precision: str,
    attention: str,
    muon: str,
) -> None:
    found, turns = measured(machine, PaperBench(table))
    settings = found.settings
    assert (settings["lanes"], settings["threads"]) == (lanes, machine.cores)
    assert (settings["precision"], settings["attention_dtype"]) == (precision, attention)
    assert settings["muon_dtype"] == muon
    assert settings_of(found.choices).keys() <= TrainConfig.model_fields.keys()
    assert found.measured == found.wanted > 30 and not found.was_busy
    assert found.took_s < 12  # all tries are alike: there is nothing to wait for
    assert not any("measured" in choice.note for choice in found.choices)
    assert min(len(each.each) for each in turns.known.values()) >= 2


@MACHINES
def test_beside_sixteen_busy_processes_the_same_is_taken_in_the_same_time(
    machine: MachineFacts,
    table: Mapping[str, float],
    lanes: int,
    precision: str,
    attention: str,
    muon: str,
) -> None:
    """By the clock every try is another; threads that spin are not tried, so that lanes are
    taken."""
    bench = PaperBench(table, load_of_sixteen())
    found, turns = measured(machine, bench, begin_s=9.0, busy=0.96)
    assert found.took_s <= MEASURE_S + 2 * bench.longest_s
    assert found.settings["lanes"] == machine.cores
    assert found.settings["precision"] == precision and found.settings["muon_dtype"] == muon
    assert found.was_busy and found.measured < found.wanted
    lane_choice, _, precision_choice = found.choices
    assert "measured 1 of 2 ways: the machine was busy: others used 96% of it" in lane_choice.reason
    assert "by the processor's own time" in precision_choice.reason
    quiet_s = table[f"step {machine.cores} x 1 fp32"]
    assert precision_choice.seconds["fp32"] <= quiet_s  # not the ten times that the clock says
    step = reference_load(found.steps[0])
    assert 0 < predicted_step_s(step, found, fit_level(found)) < 1.0
    assert len(turns.known) >= 7


@pytest.mark.parametrize("begin_s", [16.0, 17.5])
def test_what_is_not_measured_in_time_is_as_of_usual_machines(begin_s: float) -> None:
    """Loading torch alone may take all of it; a plan can be made all the same."""
    bench = PaperBench(SERVER, load_of_sixteen())
    found, turns = measured(facts(2, True), bench, begin_s=begin_s, busy=0.97)
    assert found.took_s < LIMIT_S and found.measured == len(turns.known) < 5
    assert found.settings["lanes"] == 2 and found.settings["precision"] == "fp32"
    assert found.settings["muon_dtype"] == "fp32"
    step = reference_load(found.steps[0])
    assert 0 < predicted_step_s(step, found, fit_level(found)) < 1.0
    if not turns.known:
        assert fit_level(found).spread < 0.1
        assert "measured 0 of 2 ways: the machine was busy" in found.choices[1].reason
        (rate,) = {rate.flops_per_s for rate in found.matmuls if rate.precision == "fp32"}
        assert rate == USUAL["matmul"]


def test_a_slow_machine_is_asked_for_smaller_steps() -> None:
    """Twenty times slower than the laptop, and alone: no step may take the whole time."""
    table = {name: 20 * seconds for name, seconds in LAPTOP.items()}
    bench = PaperBench(table, speed=0.05)
    found, turns = measured(facts(2, False), bench)
    assert found.took_s <= MEASURE_S + bench.longest_s < LIMIT_S
    ways = {name for name in turns.known if name.startswith("choice")}
    assert ways == {f"choice of 2 rows: {layout} fp32" for layout in ("2 x 1", "1 x 2")}
    assert found.measured < found.wanted and not found.was_busy
    rates = {rate.flops_per_s for rate in found.matmuls}
    assert max(rates) < 0.06 * USUAL["matmul"]  # what is missing has this machine's speed


def test_slow_bf16_is_not_even_timed_in_a_step() -> None:
    """A step in emulated bf16 takes seconds; two products say enough."""
    found, _ = measured(facts(2, False), PaperBench(LAPTOP))
    precision = found.choices[2]
    assert list(precision.seconds) == ["fp32"] and "52 x" in precision.reason
    assert list(found.choices[1].seconds) == ["fp32"] and "52 x" in found.choices[1].reason


def test_a_reason_says_every_time_fastest_first() -> None:
    found, _ = measured(facts(2, True), PaperBench(SERVER))
    reason = found.choices[2].reason
    assert reason.startswith("bf16, attention bf16 taken")
    assert reason.index("bf16, attention bf16 41.4 ms") < reason.index("fp32 65.8 ms")


def test_a_choice_from_nothing_says_so() -> None:
    every: tuple[MeasuredChoice, ...] = choices(facts(4, True, 2), {}, "there was no time")
    assert settings_of(every) == {
        "threads": 4,
        "lanes": 4,
        "muon_dtype": "fp32",
        "precision": "fp32",
        "attention_dtype": "fp32",
    }
    for choice in every:
        assert choice.seconds == {} and "there was no time" in choice.reason
    assert product_name("fp32") != muon_name("fp32")


def test_layouts_know_threads_of_one_core() -> None:
    assert layouts(1, 1) == [{"threads": 1, "lanes": 1}]
    assert layouts(8, 4) == [
        {"threads": 8, "lanes": 8},
        {"threads": 4, "lanes": 4},
        {"threads": 8, "lanes": 1},
    ]
