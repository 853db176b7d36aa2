"""Accelerators and processors: facts with their sources, read from devices.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from whorl.core.errors import SpecError

if TYPE_CHECKING:
    pass

__all__ = [
    "Device",
    "device",
    "device_names",
]

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Rates of one device. Links count one direction, per device."""

    name: str
    kind: str  # gpu, tpu or cpu
    memory_bytes: float  # as the driver reports it
    memory_bytes_per_s: float
    flops_per_s: dict[str, float] = field(hash=False)  # dense peak: fp32, tf32, bf16, fp8, nvfp4
    node_devices: int  # devices joined by the in-node link
    link_bytes_per_s: float  # in-node, one direction
    network_bytes_per_s: float  # to other nodes, per device, one direction
    power_w: float
    usd_per_hour: float  # on demand; dataclasses.replace sets another
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # "fields: document"
    host_power_w: float = 0.0  # rest of the node at its rating, per device
    usd_range: tuple[float, float] = (0.0, 0.0)  # lowest and highest price seen; (0, 0): unknown
    memory_nominal_gb: float = 0.0  # as sold
    year: int = 0
    notes: str = ""

    def peak(self, precision: str) -> float:
        """Dense peak, FLOP/s; the next wider type when the device lacks one."""
        for name in _FALLBACK[precision]:
            if name in self.flops_per_s:
                return self.flops_per_s[name]
        raise SpecError(f"{self.name} has no {precision} rate", found=sorted(self.flops_per_s))


_FALLBACK = {
    "fp32": ("fp32",),
    "tf32": ("tf32", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "fp8_block": ("fp8", "bf16", "fp16", "fp32"),
    "mxfp8": ("fp8", "bf16", "fp16", "fp32"),
    "nvfp4": ("nvfp4", "fp8", "bf16", "fp16", "fp32"),
}


@cache
def _catalogue() -> dict[str, Device]:
    """Every name and alias -> device."""
    text = (files("whorl.stages.plan.cluster") / "devices.json").read_text("utf-8")
    found: dict[str, Device] = {}
    for entry in json.loads(text)["devices"]:
        item = _read(entry)
        for name in (item.name, *item.aliases):
            found[name] = item
    return found


def _read(entry: dict[str, Any]) -> Device:
    return Device(
        name=entry["name"],
        kind=entry["kind"],
        memory_bytes=entry["memory_gib"] * GIB,
        memory_bytes_per_s=entry["memory_gb_per_s"] * 1e9,
        flops_per_s={key: value * 1e12 for key, value in entry["tflops"].items()},
        node_devices=entry["node_devices"],
        link_bytes_per_s=entry["link_gb_per_s"] * 1e9,
        network_bytes_per_s=entry["network_gb_per_s"] * 1e9,
        power_w=entry["power_w"],
        usd_per_hour=entry["usd_per_hour"],
        aliases=tuple(entry.get("aliases", ())),
        sources=tuple(entry.get("sources", ())),
        host_power_w=entry["host_power_w"],
        usd_range=(entry["usd_range"][0], entry["usd_range"][1]),
        memory_nominal_gb=entry["memory_nominal_gb"],
        year=entry["year"],
        notes=entry.get("notes", ""),
    )


def device(name: str) -> Device:
    """The device of a name or alias, case ignored. Raises SpecError with the nearest names."""
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    found = _catalogue().get(key)
    if found is None:
        from difflib import get_close_matches

        of_kind = [each.name for each in _catalogue().values() if each.kind == key]
        near = list(dict.fromkeys(of_kind)) or get_close_matches(key, _catalogue(), n=3, cutoff=0.4)
        raise SpecError(
            "unknown device",
            found=name,
            expected=f"one of {', '.join(device_names())}",
            do=f"did you mean {' or '.join(near)}?" if near else None,
        )
    return found


def device_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.name for item in _catalogue().values()))
