"""The accelerators of this machine, as nvidia-smi and rocm-smi tell of them, for `--device`.

A card of the catalogue brings its facts along; its memory, its power limit and how many there are
come from the machine. Of a card that is not in it, torch measures the rates, if it can use it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import Device, device

__all__ = ["Card", "found_cards", "measured_rates", "own_device"]

MIB = 2**20
TIMEOUT_S = 20.0  # of a tool that hangs
PRODUCT, READ_BYTES, REPEATS = 8192, 2**30, 10  # of a measured product, of a measured copy


@dataclass(frozen=True)
class Card:
    """One kind of card: its tool's name for it, what its driver shows, how many there are."""

    name: str
    maker: str
    memory_bytes: float
    power_w: float
    number: int


def found_cards() -> list[Card]:
    """Kinds of cards, the most numerous first; empty where no tool finds one."""
    return _nvidia() or _amd()


def _told(*command: str) -> str:
    """What a tool prints; empty where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _nvidia() -> list[Card]:
    query = ("--query-gpu=name,memory.total,power.limit", "--format=csv,noheader,nounits")
    rows = list(csv.reader(io.StringIO(_told("nvidia-smi", *query)), skipinitialspace=True))
    number = Counter(row[0] for row in rows if len(row) == 3)
    first = {row[0]: row for row in reversed(rows) if len(row) == 3}
    return [
        Card(name, "nvidia", _number(first[name][1]) * MIB, _number(first[name][2]), count)
        for name, count in number.most_common()
    ]


def _amd() -> list[Card]:
    text = _told(
        "rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showmaxpower", "--json"
    )
    try:
        cards = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return []
    found: dict[str, list[tuple[float, float]]] = {}
    for values in cards.values():
        named = {str(key).lower(): str(value) for key, value in values.items()}
        name = named.get("card series") or named.get("card model") or ""
        memory = _number(named.get("vram total memory (b)", ""))
        watts = next((_number(value) for key, value in named.items() if "power" in key), 0.0)
        if name and memory:
            found.setdefault(name, []).append((memory, watts))
    kinds = sorted(found.items(), key=lambda item: -len(item[1]))
    return [Card(name, "amd", *facts[0], len(facts)) for name, facts in kinds]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return 0.0


def own_device(card: Card) -> Device:
    """The card with its catalogue's facts, or with rates that torch measures.

    Raises PlanError if it is neither known nor measurable.
    """
    try:
        known = device(card.name)
    except SpecError as error:
        rates = measured_rates("cuda")
        if rates is None:
            raise PlanError(
                f"{card.name} is not in the catalogue, and torch cannot use it to measure it",
                do="install torch for this card, or write the file by hand: docs/extend.md",
            ) from error
        flops, bytes_per_s = rates
        known = replace(
            device("rtx-4090"),
            name=card.name.lower().replace(" ", "-"),
            flops_per_s=flops,
            memory_bytes_per_s=bytes_per_s,
            usd_per_hour=0.0,
            maker=card.maker,
            multiprocessors=_multiprocessors(),
            catalogued="",
        )
    # nvidia-smi shows what the card has, of which the driver keeps a part
    memory = min(card.memory_bytes, known.memory_bytes) if card.memory_bytes else known.memory_bytes
    if card.memory_bytes and known.memory_bytes < 0.9 * card.memory_bytes:
        memory = 0.98 * card.memory_bytes
    return replace(
        known, memory_bytes=memory, node_devices=card.number, power_w=card.power_w or known.power_w
    )


def _multiprocessors() -> int:
    """Of the first card, as torch tells (of AMD's the compute units); 0 where it has none."""
    import torch

    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(0).multi_processor_count)


def measured_rates(
    target: str, product: int = PRODUCT, copied: int = READ_BYTES
) -> tuple[dict[str, float], float] | None:
    """(FLOP/s by type, bytes/s of memory) as torch reaches them; None where it cannot run."""
    if find_spec("torch") is None:
        return None
    import torch

    if target == "cuda" and not torch.cuda.is_available():
        return None

    def seconds(run: object) -> float:
        best = float("inf")
        for _ in range(REPEATS):
            started = time.perf_counter()
            run()  # type: ignore[operator]
            if target == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best

    flops = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.ones(product, product, dtype=dtype, device=target)
        flops[name] = 2.0 * product**3 / seconds(lambda a=a: a @ a)
    source = torch.ones(copied // 4, device=target)
    kept = torch.empty_like(source)
    return flops, 2.0 * copied / seconds(lambda: kept.copy_(source))
