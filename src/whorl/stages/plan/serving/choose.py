"""The cheapest way to serve a target: engine, precision, split, replicas, batch limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.arch.shape import ModelShape
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.serving import aiconfigurator
from whorl.stages.plan.serving.target import ServingFigure, ServingPlan, ServingTarget
from whorl.stages.plan.serving.times import (
    ENGINES,
    Latency,
    ReplicaLoad,
    columns,
    constants,
    steady_state,
)
from whorl.stages.plan.serving.work import (
    QUANTISATIONS,
    Deployment,
    compute_type,
    decode_work,
    prefill_work,
)

__all__ = ["error_of", "plan_serving", "rates_of", "room_for"]

MEMORY_SHARE = 0.9  # of the device, what the engines take by default
RESERVED_BYTES = 2e9  # activations, graphs, buffers of the collectives
MAX_RUNNING = 1024
BATCHES = np.unique(np.geomspace(1, MAX_RUNNING, 96).round())
# Mean wait behind other prompts -> its 95th percentile, if waits are exponential: our assumption.
P95_OF_MEAN_WAIT = math.log(20)


@dataclass(frozen=True)
class Option:
    """A deployment with the latencies of every batch size it could run."""

    deployment: Deployment
    engine: str
    room: float
    running: np.ndarray[Any, np.dtype[np.float64]]
    latency: Latency

    def best(self, target: ServingTarget, slower: tuple[float, float]) -> int | None:
        """Index of the largest batch that keeps the target if all is slower by these factors."""
        token, first = self.latency.token_s * slower[0], first_p95(self.latency) * slower[1]
        good = (token * target.tokens_per_s_per_user <= 1) & (first <= target.first_token_p95_s)
        return int(np.flatnonzero(good)[-1]) if good.any() else None


def first_p95(latency: Latency) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds; the queue alone varies."""
    return latency.first_s + (P95_OF_MEAN_WAIT - 1) * latency.queue_s


def room_for(deployment: Deployment, tokens: int) -> float:
    """Requests of `tokens` tokens whose cache fits beside the weights; below 1: none does."""
    free = MEMORY_SHARE * deployment.device.memory_bytes - RESERVED_BYTES
    per_request = deployment.cache_bytes(tokens) / deployment.attention_replicas
    return max(0.0, free - deployment.weight_bytes) / per_request


def plan_serving(
    shape: ModelShape,
    device: Device,
    target: ServingTarget,
    *,
    price: float | None = None,
    model_path: str | None = None,
) -> ServingPlan:
    """The cheapest plan that meets the target, price in USD per device and hour.

    With model_path (a Hugging Face name or a folder with config.json) and aiconfigurator
    installed, an NVIDIA device is planned by it. Otherwise by a roofline with constants fitted
    on measured rows. Raises PlanError, with changes that would help, when nothing meets the
    target; SpecError for a bad price.
    """
    usd = device.price(price)
    if usd is not None and not usd >= 0:
        raise SpecError("price of a device-hour", found=price, expected="at least 0")
    context = target.input_tokens + target.output_tokens
    if 0 < shape.max_seq_len < context:
        raise PlanError(
            f"{shape.name} was made for shorter contexts",
            found=f"{context} tokens in and out",
            expected=f"at most {shape.max_seq_len}",
            do="shorten the input or the output",
        )
    is_fixed = bool(target.engines or target.devices_per_replica)
    if model_path is not None and not is_fixed and aiconfigurator.covers(device):
        row = aiconfigurator.best_configuration(model_path, device, target)
        if row is not None:
            return _plan_of_row(shape, device, target, usd, row)
    options = _options(shape, device, target)
    found = _cheapest(options, target)
    if found is None:
        raise _infeasible(shape, device, target, options)
    return _plan(found, target, usd)


def _options(
    shape: ModelShape, device: Device, target: ServingTarget, nodes: int = 1
) -> list[Option]:
    heads = shape.attention.heads
    sizes = [2**i for i in range(12) if 2**i <= device.node_devices * nodes]
    if (fixed := target.devices_per_replica) is not None:
        if heads % fixed:
            raise SpecError(f"tp {fixed} does not divide the {heads} heads of {shape.name}")
        sizes = [fixed]
    options, engines = [], _engines(device, target)
    for name in target.quantisations:
        for devices in sizes:
            if heads % devices:
                continue
            deployment = Deployment(shape, device, devices, QUANTISATIONS[name])
            room = room_for(deployment, target.input_tokens + target.output_tokens)
            if room >= 1:
                options += [_option(deployment, item, room, target) for item in engines]
    return options


def _engines(device: Device, target: ServingTarget) -> tuple[str, ...]:
    """Of the target's, those that run on the device. Raises SpecError if none does."""
    able: tuple[str, ...] = ("cpu",) if device.kind == "cpu" else ("vllm",)
    if device.is_nvidia:
        able = ("vllm", "sglang", "trtllm")
    asked = tuple(name for name in able if name in target.engines or not target.engines)
    if len(asked) < len(target.engines or asked) or not asked:
        found = "+".join(target.engines)
        is_unsaid = device.kind == "gpu" and not device.maker
        do = f"state the maker of the card in {device.name}: maker: nvidia" if is_unsaid else None
        raise SpecError(f"engine on {device.name}", found=found, expected=", ".join(able), do=do)
    return asked


def _option(deployment: Deployment, engine: str, room: float, target: ServingTarget) -> Option:
    most = int(min(room, target.users, MAX_RUNNING))
    grid = BATCHES[most > BATCHES]  # the same whatever the room: more of it offers no less
    running = np.append(grid, float(most))
    context = target.input_tokens + target.output_tokens // 2
    load = ReplicaLoad(
        engine=np.full(len(running), ENGINES.index(engine)),
        running=running,
        waiting=np.zeros(len(running)),
        output_tokens=np.full(len(running), float(target.output_tokens)),
        burst=np.zeros(len(running), bool),
    )
    decode = columns([decode_work(deployment, n, context) for n in running])
    prefill = columns([prefill_work(deployment, 1, target.input_tokens)] * len(running))
    latency = steady_state(decode, prefill, load, constants()["values"])
    return Option(deployment, engine, room, running, latency)


def _cheapest(options: Sequence[Option], target: ServingTarget) -> tuple[Option, int] | None:
    """Fewest devices; among equals the faster for each user."""
    found = [(item, index) for item in options if (index := item.best(target, (1, 1))) is not None]

    def cost(pair: tuple[Option, int]) -> tuple[float, float]:
        option, index = pair
        devices = option.deployment.devices * math.ceil(target.users / option.running[index])
        return devices, float(option.latency.token_s[index])

    return min(found, key=cost) if found else None


def _plan(found: tuple[Option, int], target: ServingTarget, usd: float | None) -> ServingPlan:
    option, index = found
    d, error = option.deployment, error_of(option.deployment.device)
    running = int(option.running[index])
    replicas = math.ceil(target.users / running)
    # the batch of the grid that replicas really run: the smallest that holds every user
    used = int(np.searchsorted(option.running, target.users / replicas))
    latency = option.latency
    token, first = float(latency.token_s[used]), float(latency.first_s[used])
    needed: list[int | None] = []
    for tail in (0, 1):
        batch = option.best(target, (error["token_s"][tail], error["first_s"][tail]))
        needed.append(None if batch is None else math.ceil(target.users / option.running[batch]))
    context = target.input_tokens + target.output_tokens // 2
    decode = vars(decode_work(d, float(option.running[used]), context))
    notes = [f"batch of {option.running[used]:.0f} per replica at {target.users} users"]
    if compute_type(d.device, d.quantisation) == "bf16" != d.quantisation.compute:
        notes.append(f"{d.device.name} has no {d.quantisation.compute}: products run in bf16")
    return ServingPlan(
        model=d.shape.name,
        device=d.device.name,
        method="roofline",
        engine=option.engine,
        quantisation=d.quantisation.name,
        devices_per_replica=d.devices,
        replicas=ServingFigure(replicas, needed[0] or replicas, needed[1]),
        max_running=running,
        max_cache_tokens=int(option.room * (target.input_tokens + target.output_tokens)),
        first_token_p95_s=_scaled(float(first_p95(latency)[used]), error["first_s"]),
        decode_parts_s={name: value for name, value in decode.items() if name.endswith("_s")},
        notes=tuple(notes),
        **_figures(target, first, token, error, replicas * d.devices, usd),
    )


def _plan_of_row(
    shape: ModelShape, device: Device, target: ServingTarget, usd: float | None, row: dict[str, str]
) -> ServingPlan:
    """aiconfigurator's best configuration; it states no error, so intervals are ours."""
    error, running = error_of(device), float(row["concurrency"])
    devices, replicas = int(row["num_total_gpus"]), math.ceil(target.users / running)
    first, token = float(row["ttft"]) / 1e3, float(row["tpot"]) / 1e3
    return ServingPlan(
        model=shape.name,
        device=device.name,
        method="aiconfigurator",
        engine=row["backend"],
        quantisation=row["gemm"].replace("bfloat16", "bf16"),
        devices_per_replica=devices,
        replicas=ServingFigure(replicas, replicas, None),
        max_running=int(running),
        max_cache_tokens=int(running) * (target.input_tokens + target.output_tokens),
        first_token_p95_s=_scaled(first, error["first_s"]),
        notes=(
            f"aiconfigurator, {row['parallel']}, database of {row['backend']} {row['version']}",
            "it gives a mean time to the first token, taken for the 95th percentile too",
        ),
        **_figures(target, first, token, error, replicas * devices, usd),
    )


Error = dict[str, tuple[float, float]]


def _figures(
    target: ServingTarget, first: float, token: float, error: Error, devices: int, usd: float | None
) -> dict[str, Any]:
    """Rates and price."""
    an_hour = devices * (usd or 0.0)
    rates = rates_of(target.users, target.output_tokens, first, token, error)
    return {
        "first_token_s": _scaled(first, error["first_s"]),
        "tokens_per_s_per_user": ServingFigure(
            1 / token, 1 / token / error["token_s"][1], 1 / token / error["token_s"][0]
        ),
        "tokens_per_s": ServingFigure(rates[0], rates[2], rates[1]),
        "usd_per_million_tokens": ServingFigure(*(an_hour / 3600 / rate * 1e6 for rate in rates)),
        "usd_per_hour": None if usd is None else an_hour,
    }


def rates_of(users: int, written: int, first: float, token: float, error: Error) -> list[float]:
    """Tokens/s of all, then at the errors' two ends: each user always has a request in flight
    (Little's law)."""
    ends = zip((1, *error["first_s"]), (1, *error["token_s"]), strict=True)
    return [users * written / (first * a + written * token * b) for a, b in ends]


def error_of(device: Device) -> Error:
    """Measured over predicted latency at 5% and 95% of the rows, of models left out.

    Only NVIDIA devices were measured: elsewhere twice as wide, as ratios go.
    """
    power = 1 if device.is_nvidia else 2
    return {name: (low**power, high**power) for name, (low, high) in constants()["error"].items()}


def _scaled(value: float, tails: tuple[float, float]) -> ServingFigure:
    return ServingFigure(value, value * tails[0], value * tails[1])


def _infeasible(
    shape: ModelShape, device: Device, target: ServingTarget, options: Sequence[Option]
) -> PlanError:
    """What stands in the way, and up to three single changes that were found to remove it."""
    found = "weights and one request's cache do not fit one node"
    rate, wait = target.tokens_per_s_per_user, target.first_token_p95_s
    changes: list[tuple[str, ServingTarget]] = []
    if options:  # what one request alone would see
        alone = [(1 / item.latency.token_s[0], first_p95(item.latency)[0]) for item in options]
        best, least = max(r for r, _ in alone), min(w for _, w in alone)
        found = f"at best {best:.3g} tokens/s per user, {least:.3g} s to the first token"
        slower = 0.9 * float(max([r for r, w in alone if w <= wait], default=best))
        longer = 1.1 * float(min([w for r, w in alone if r >= rate], default=least))
        changes += [
            (
                f"ask for {slower:.3g} tokens/s per user",
                replace(target, tokens_per_s_per_user=slower),
            ),
            (f"allow {longer:.3g} s to the first token", replace(target, first_token_p95_s=longer)),
        ]
    changes += [
        (f"quantise to {name}", replace(target, quantisations=(name,)))
        for name in (("int8", "int4") if device.kind == "cpu" else ("fp8", "int4", "nvfp4"))
        if name not in target.quantisations
    ]
    for size in (max(1, target.input_tokens // divisor) for divisor in (2, 4, 8)):
        changes.append((f"shorten the input to {size} tokens", replace(target, input_tokens=size)))
    helps: dict[str, str] = {}
    for text, changed in changes:
        kind = text.split()[0]
        if kind not in helps and _cheapest(_options(shape, device, changed), changed):
            helps[kind] = text
    is_open = device.kind != "cpu" and target.devices_per_replica is None
    if is_open and _cheapest(_options(shape, device, target, nodes=4), target):
        helps["split"] = f"split over more than the {device.node_devices} devices of a node"
    return PlanError(
        f"no deployment of {shape.name} on {device.name} meets the target",
        found=found,
        expected=f"{rate:g} tokens/s per user and {wait:g} s to the first token at p95",
        do=" or ".join(list(helps.values())[:3]) or "choose a smaller model or a faster device",
    )
