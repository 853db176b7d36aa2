"""Amounts to seconds: a roofline per kind of work, slowed down by constants with known spread.

Every kind of work takes amount / peak rate x slow-down. Products and memory traffic of a layer
add up, launches of the processor overlap with them, gathered weights overlap with the layer they
are for, and a pipeline waits for its fill. The constants (constants.json) have a prior and a
spread set from data sheets and published kernel measurements, and values fitted on published
steps (benchmarks/fit_step_time.py); a measured step of one machine moves them further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.stages.plan.cluster.amounts import FAMILIES, Amounts
from whorl.stages.plan.facts import data_file, fact

__all__ = [
    "PARTS",
    "Constants",
    "Table",
    "constants",
    "jacobian",
    "part_name",
    "prior",
    "seconds",
    "sources",
    "table",
]

Array = NDArray[np.float64]
OLD, FSDP, XLA, INTERNEVO, MODERN, EAGER = range(6)  # in the order of amounts.STACKS
HOPPER, BLACKWELL, TPU = 2, 3, 9
DELTA = 0.02  # of a constant's logarithm, over which slopes are taken
LAUNCH_OVERLAP_OLD, LAUNCH_OVERLAP, GATHER_OVERLAP = 1.7, 3.0, 3.0  # exponents: 1 adds, ∞ hides
FILE = "cluster/constants.json"
PARTS: tuple[str, ...] = tuple(fact("parts"))  # -> of what kind, and what it is called


@dataclass(frozen=True)
class Constants:
    """Values by name, and the interval's width in standard deviations of their spread."""

    values: Mapping[str, float]
    dense_width: float
    expert_width: float
    noise: float  # of log time, what no constant explains
    seen: frozenset[str] = frozenset()  # devices, and "software kind", whose steps were fitted
    unseen_device: float = 0.0  # of log time, where no step of the device was fitted
    unseen_software: float = 0.0

    def array(self) -> Array:
        """Logarithms, in the order of `prior`."""
        return np.log([self.values[name] for name in prior().names])


@dataclass(frozen=True)
class Prior:
    names: tuple[str, ...]
    means: Array  # logarithms
    sigmas: Array


@dataclass(frozen=True)
class Table:
    """Amounts of many jobs, one array per field."""

    columns: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["tp"])

    def rows(self, chosen: Any) -> Table:
        return Table({name: column[chosen] for name, column in self.columns.items()})


def table(items: Sequence[Amounts]) -> Table:
    values = np.array(items, dtype=np.float64).reshape(len(items), len(Amounts._fields))
    return Table({name: values[:, index] for index, name in enumerate(Amounts._fields)})


@cache
def prior() -> Prior:
    entries = data_file(FILE)["constants"]
    return Prior(
        tuple(entry["name"] for entry in entries),
        np.log([entry["prior"] for entry in entries]),
        np.array([entry["sigma"] for entry in entries]),
    )


def sources() -> tuple[str, ...]:
    """Sources without which constants were fitted, for scoring them."""
    return tuple(data_file(FILE)["without"])


@cache
def constants(without: str | None = None) -> Constants:
    """Fitted on every published step, or on those of all other sources than `without`."""
    data = data_file(FILE)
    fit = data["without"].get(without) if without else None
    fit = fit or data["all"]
    return Constants(
        fit["values"],
        fit["dense_width"],
        fit["expert_width"],
        data["noise"],
        frozenset(fit.get("seen", ())),
        data.get("unseen_device", 0.0),
        data.get("unseen_software", 0.0),
    )


def seconds(theta: Array, t: Table) -> tuple[Array, dict[str, Array]]:
    """(step in seconds [jobs], parts of it by the names of PARTS, each [jobs]).

    theta: logarithms of the constants, [constants] in the order of `prior`. The parts add up to
    the step: of what overlaps, "launch" and "sharded_weights" hold only what they add.
    """
    c = dict(zip(prior().names, np.exp(theta), strict=True))
    stack = t["stack"]
    ideal, compute, attention, memory = _device_work(c, t)
    launch = _launch(c, t)
    busy = compute + attention + memory
    power = np.where(stack == OLD, LAUNCH_OVERLAP_OLD, LAUNCH_OVERLAP)
    layers = _overlap(busy, launch, power)
    messages = _messages(c, t)
    stage = layers + sum(messages.values())
    old_gather = np.where(stack == OLD, c["gather_2021"], 1.0)
    gather = t["gather_bytes"] / t["shard_bandwidth"] * c["network"] * old_gather * _by_pcie(c, t)
    with_gather = _overlap(stage, gather, GATHER_OVERLAP) + c["gather_exposed"] * gather
    exposed = with_gather - stage
    exchange = _exchange(c, t)
    update = t["step_optimizer_bytes"] / t["memory_bytes_per_s"] * c["optimizer"]
    fill = t["fill"] * c["fill"]
    number = t["micro_batches"]
    scale = 1 + c["straggling"] * np.log2(np.maximum(t["nodes"], 1))
    parts = {
        "compute": number * ideal,
        "efficiency": number * (compute - ideal),
        "attention": number * attention,
        "memory": number * memory,
        "launch": number * (layers - busy),
        **{name: number * value for name, value in messages.items()},
        "sharded_weights": number * exposed,
        "bubble": fill * with_gather,
        "gradient_exchange": exchange,
        "optimizer": update,
        "other": np.full(number.shape, c["step_s"]),
    }
    parts = {name: value * scale for name, value in parts.items()}
    step = np.sum(list(parts.values()), axis=0)
    return step, parts


def part_name(part: str) -> str:
    """One of PARTS in the words of a person."""
    said = fact("parts").get(part, ())
    return str(said[1]) if len(said) > 1 else part.replace("_", " ")


def _overlap(a: Array, b: Array, power: Array | float) -> Array:
    """Between the sum (power 1) and the larger of two things that go on together."""
    result: Array = (a**power + b**power) ** (1 / np.asarray(power))
    return np.maximum(result, a)  # but for rounding, what b adds is never below 0


def _device_work(c: Mapping[str, float], t: Table) -> tuple[Array, Array, Array, Array]:
    """Seconds per micro-batch: products at peak, as they are, attention, memory traffic."""
    stack, generation, bits = t["stack"], t["generation"], t["bits"]
    own = np.array([*(c[f"device_{name.replace('-', '_')}"] for name in FAMILIES), 1.0])  # -1: 1
    slow = own[t["family"].astype(int)]
    wide = np.where(generation == TPU, c["matmul_xla"], c["matmul_16"])
    layer = np.select([bits == 8, bits == 4], [c["matmul_8"], c["matmul_4"]], wide) * slow
    small = 1 + t["moe"] * c["expert_rows"] / np.maximum(t["expert_rows"], 1)
    at_peak = t["layer_flops"] / t["low_peak"] + t["head_flops"] / t["peak"]
    looked_up = t["product_s"] > 0
    compute = t["layer_flops"] / t["low_peak"] * layer * small
    compute = np.where(looked_up, t["product_s"] * c["tables"] * slow, compute)
    compute = compute + t["head_flops"] / t["peak"] * wide * slow
    ported = np.where((stack == INTERNEVO) | (stack == MODERN), 1.0, c["attention_ported"])
    fused = np.select(
        [generation == HOPPER, generation == BLACKWELL, generation == TPU],
        [c["attention_hopper"] * ported, c["attention_blackwell"], c["attention_tpu"]],
        c["attention_ampere"],
    )
    unfused = c["matmul_16"] * (1 + t["misaligned"] * c["misaligned"])
    kernel = np.where(t["score_bytes"] > 0, unfused, fused)
    attention = t["attention_flops"] / t["peak"] * slow * kernel
    kinds = ("2021", "fsdp", "xla", "modern", "modern", "eager")
    elementwise = np.array([c[f"elementwise_{name}"] for name in kinds])[stack.astype(int)]
    moved = t["matmul_bytes"] * c["matmul_bytes"] * ~looked_up + t["score_bytes"] * c["scores"]
    moved = moved + t["elementwise_bytes"] * elementwise + t["logit_bytes"] * c["logits"]
    moved = moved + t["cast_bytes"] * c["casts"] + t["route_bytes"] * c["routing"]
    moved = moved + t["dequantised_bytes"] * c["dequantise"]
    return at_peak, compute, attention, moved / t["memory_bytes_per_s"]


def _launch(c: Mapping[str, float], t: Table) -> Array:
    """Seconds the processor needs to start the work of one micro-batch."""
    stack = t["stack"]
    kinds = ("2021", "fsdp", "xla", "modern", "modern", "eager")
    per_layer = np.array([c[f"launch_{name}_s"] for name in kinds])[stack.astype(int)]
    compiled = stack == XLA
    experts = np.where(compiled, 0.0, c["launch_experts_s"])
    group = np.where(compiled, 0.0, c["tp_launch_s"]) * t["tp"]
    launches: Array = t["layer_passes"] * per_layer + t["expert_layer_passes"] * experts
    launches += t["expert_passes"] * c["expert_loop_s"]
    launches += t["expert_gathers"] * c["expert_gather_s"]
    return launches + t["tp_messages"] * group


def _by_pcie(c: Mapping[str, float], t: Table) -> Array:
    """What collectives take more where no link of their own joins the devices."""
    slower: Array = np.where(t["pcie"] > 0, c["pcie"], 1.0)
    return slower


def _messages(c: Mapping[str, float], t: Table) -> dict[str, Array]:
    """Seconds per micro-batch spent between devices, by part."""
    old, modern = t["stack"] == OLD, t["stack"] == MODERN
    tp = np.where(old, c["tp_2021"], c["tp_modern"])
    pp = np.where(modern, c["pp_modern"], c["pp_2021"])
    links = _by_pcie(c, t)
    experts = t["ep_node_bytes"] / t["link_bytes_per_s"] * links
    experts = experts + t["ep_network_bytes"] / t["network_bytes_per_s"]
    return {
        "tensor_parallel": t["tp_bytes"] / t["tp_bandwidth"] * tp * links
        + t["tp_messages"] * c["tp_latency_s"],
        "expert_parallel": experts * c["experts"] + t["ep_messages"] * c["experts_latency_s"],
        "context_parallel": t["cp_bytes"] / t["cp_bandwidth"] * c["cp"] * links,
        "pipeline_messages": t["pp_bytes"] / t["pp_bandwidth"] * pp
        + t["pp_messages"] * c["pp_latency_s"],
    }


def _exchange(c: Mapping[str, float], t: Table) -> Array:
    """Seconds a step in which gradients are exchanged and nothing else goes on."""
    stack = t["stack"]
    exposed = np.select(
        [stack == OLD, stack == MODERN],
        [c["reduce_exposed_2021"], c["reduce_exposed_modern"]],
        c["reduce_exposed_fsdp"],
    )
    exposed = np.where(t["overlap"] > 0, exposed, 1.0)
    moving = t["step_reduce_bytes"] / t["dp_bandwidth"] * c["network"] * exposed
    moving *= _by_pcie(c, t)
    result: Array = moving + t["step_reduce_messages"] * c["reduce_latency_s"]
    return result


def jacobian(theta: Array, t: Table) -> tuple[Array, Array]:
    """(log step [jobs], its derivative by the constants' logarithms [jobs, constants])."""
    base = np.log(seconds(theta, t)[0])
    slopes = np.empty((len(base), len(theta)))
    for index in range(len(theta)):
        moved = theta.copy()
        moved[index] += DELTA
        slopes[:, index] = (np.log(seconds(moved, t)[0]) - base) / DELTA
    return base, slopes
