"""Accelerators and processors: facts with their sources, read from devices.json."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from whorl.core.errors import SpecError
from whorl.core.frozen import Frozen
from whorl.core.nearest import nearest
from whorl.stages.plan.facts import data_file, fact

if TYPE_CHECKING:
    from whorl.stages.plan.cluster.here import Calibrated

__all__ = [
    "GIB",
    "HERE",
    "Device",
    "Entry",
    "device",
    "device_names",
]

HERE = "here"  # this machine, by its calibration (here.py)
GIB = 2**30
MISSPELT = 0.8  # how alike a name must be spelt that is of no known family and number
# what nvidia-smi, rocm-smi and others put before a card's own name
PREFIXES = re.compile(
    r"^(?:nvidia|amd|intel|tesla|quadro|geforce|instinct|radeon|graphics|\(r\)|-)+"
)


Peak = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "nvfp4"]  # types with a peak of their own
Rate = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Above = Annotated[Rate, Field(gt=0)]


@dataclass(frozen=True)
class Device:
    """Rates of one device. Links count one direction, per device."""

    name: str
    kind: str  # gpu, tpu, npu or cpu
    memory_bytes: float  # as the driver reports it
    memory_bytes_per_s: float
    flops_per_s: dict[str, float] = field(hash=False)  # dense peak: fp32, tf32, bf16, fp8, nvfp4
    node_devices: int  # devices joined by the in-node link
    link_bytes_per_s: float  # in-node, one direction
    network_bytes_per_s: float  # to other nodes, per device, one direction
    power_w: float
    usd_per_hour: float  # on demand; 0: not known
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # "fields: document"
    host_power_w: float = 0.0  # rest of the node at its rating, per device
    usd_range: tuple[float, float] = (0.0, 0.0)  # lowest and highest price seen; (0, 0): unknown
    memory_nominal_gb: float = 0.0  # as sold
    year: int = 0
    notes: str = ""
    maker: str = ""  # "": not stated
    # streaming multiprocessors, or what the maker calls them: compute units, Xe, GPU, Tensor or
    # Neuron cores, a processor's cores; 0: not stated
    multiprocessors: int = 0
    catalogued: str = ""  # its name in the catalogue, or that of the card it is like; "": neither

    @property
    def measured(self) -> Calibrated | None:
        """Rates that were measured on the device itself, in place of what data sheets say."""
        return None

    @property
    def usual_precision(self) -> str:
        """Of a training that names none."""
        return "bf16" if "bf16" in self.flops_per_s or self.kind != "cpu" else "fp32"

    @property
    def is_nvidia(self) -> bool:
        return self.kind == "gpu" and self.maker == "nvidia"

    def price(self, given: float | None) -> float | None:
        """USD per device and hour: what is given, 0 too, else the catalogue's; None: not known."""
        return (self.usd_per_hour or None) if given is None else given

    def peak(self, precision: str) -> float:
        """Dense peak, FLOP/s; the next wider type when the device lacks one."""
        for name in fact("wider_types")[precision]:
            if name in self.flops_per_s:
                return self.flops_per_s[name]
        raise SpecError(f"{self.name} has no {precision} rate", found=sorted(self.flops_per_s))


class Entry(Frozen):
    """A device as the catalogue and files have it; peaks dense, in 10^12 FLOP/s by type."""

    name: str
    kind: Literal["gpu", "tpu", "npu", "cpu"] = "gpu"
    tflops: dict[Peak, Above] = Field(min_length=1)
    memory_gib: Above
    memory_gb_per_s: Above
    node_devices: int = Field(1, ge=1)
    link_gb_per_s: Rate = 32.0
    network_gb_per_s: Rate = 1.25
    power_w: Rate = 300.0
    host_power_w: Rate = 150.0
    usd_per_hour: Rate = 0.0
    usd_range: tuple[float, float] = (0.0, 0.0)
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    memory_nominal_gb: float = 0.0
    year: int = 0
    notes: str = ""
    maker: Literal["", "nvidia", "amd", "intel", "apple", "google", "aws"] = ""
    multiprocessors: int = Field(0, ge=0)

    @classmethod
    def of(cls, item: Device) -> Entry:
        same = {name: getattr(item, name) for name in cls.model_fields if hasattr(item, name)}
        return cls(
            **same,
            tflops={name: rate / 1e12 for name, rate in item.flops_per_s.items()},
            memory_gib=item.memory_bytes / GIB,
            memory_gb_per_s=item.memory_bytes_per_s / 1e9,
            link_gb_per_s=item.link_bytes_per_s / 1e9,
            network_gb_per_s=item.network_bytes_per_s / 1e9,
        )

    def device(self, catalogued: str) -> Device:
        same = {name: value for name, value in self if name in Device.__dataclass_fields__}
        return Device(
            **same,
            memory_bytes=self.memory_gib * GIB,
            memory_bytes_per_s=self.memory_gb_per_s * 1e9,
            flops_per_s={str(name): rate * 1e12 for name, rate in self.tflops.items()},
            link_bytes_per_s=self.link_gb_per_s * 1e9,
            network_bytes_per_s=self.network_gb_per_s * 1e9,
            catalogued=catalogued,
        )


@cache
def _catalogue() -> dict[str, Device]:
    """Every name and alias -> device."""
    found: dict[str, Device] = {}
    for entry in data_file("cluster/devices.json")["devices"]:
        item = Entry.model_validate(entry).device(entry["name"])
        for name in (item.name, *item.aliases):
            found[name] = item
    return found


def device(name: str | Device) -> Device:
    """The device of a name or alias, of what nvidia-smi or rocm-smi call it, or of a file.

    What ends in .yaml or .yml is a device of one's own (own_device.py). Case and the maker's name
    are ignored. Raises SpecError with the nearest names.
    """
    if isinstance(name, Device):
        return name
    if name.lower().endswith((".yaml", ".yml")):
        from whorl.stages.plan.cluster.own_device import read_device

        return read_device(name)
    key = _key(name)
    found = _catalogue().get(key)
    if found is None:
        of_kind = [each.name for each in _catalogue().values() if each.kind == key]
        names = {HERE: HERE} | {key: each.name for key, each in _catalogue().items()}
        alike = [name for name in names if _first_digit(name) == _first_digit(key)]
        words = nearest(key, list(names), 12) or get_close_matches(key, alike, n=3, cutoff=MISSPELT)
        near = list(dict.fromkeys(of_kind or (names[word] for word in words)))[:3]
        raise SpecError(
            "unknown device",
            found=name,
            expected=f"{HERE}, or one of {', '.join(device_names())}",
            do=f"{'did you mean ' + ' or '.join(near) + '? ' if near else ''}A card of your own "
            "is a file: --device my-card.yaml, which whorl doctor --device writes",
        )
    return found


def _key(name: str) -> str:
    """A spelling without the maker's names and what they add to every card."""
    key = re.sub(r"[\s_/]+", "-", name.strip().lower())
    plain = PREFIXES.sub("", key)
    return key if key in _catalogue() else plain


def _first_digit(name: str) -> str:
    """ "1" of gtx-1080-ti: which no 3080 is a slip of the hand from; empty without a number."""
    found = re.search(r"\d", name)
    return found[0] if found else ""


def device_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.name for item in _catalogue().values()))
