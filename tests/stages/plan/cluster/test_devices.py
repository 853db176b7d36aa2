"""The catalogue against what the chips are made of: units, clocks, buses and links."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import GIB, device, device_names

# name: (matrix units' FLOP per clock, all units together; MHz), from the shape papers:
# units x FLOP of one unit and clock, dense, 16-bit inputs, 32-bit sums
MATRIX = {
    "v100-32": (80 * 8 * 64 * 2, 1530),  # 8 tensor cores of 64 multiply-adds
    "a100-80": (108 * 4 * 256 * 2, 1410),
    "a100-pcie-80": (108 * 4 * 256 * 2, 1410),
    "h100-sxm": (132 * 4 * 512 * 2, 1830),
    "h100-pcie": (114 * 4 * 512 * 2, 1620),
    "a10": (72 * 4 * 128 * 2, 1695),
    "a30": (56 * 4 * 256 * 2, 1440),
    "a40": (84 * 4 * 128 * 2, 1740),
    "l4": (58 * 4 * 128 * 2, 2040),
    "t4": (40 * 8 * 64 * 2, 1590),
    "v100-pcie-32": (80 * 8 * 64 * 2, 1370),
    "rtx-a6000": (84 * 4 * 128 * 2, 1800),
    "rtx-6000-ada": (142 * 4 * 128 * 2, 2505),
    "rtx-3090": (82 * 4 * 64 * 2, 1695),  # GeForce: half as fast with 32-bit sums
    "rtx-4090": (128 * 4 * 64 * 2, 2520),
    "rtx-5090": (170 * 4 * 64 * 2, 2407),
    "mi210": (104 * 1024, 1700),
    "mi250x": (110 * 1024, 1700),  # of one die
    "mi300x": (304 * 2048, 2100),
    "mi300a": (228 * 2048, 2100),
    "mi350x": (256 * 4096, 2200),
    "mi355x": (256 * 4096, 2400),
    "arc-a770": (512 * 128, 2100),
    "tpu-v4": (2 * 4 * 128 * 128 * 2, 1050),  # 2 cores of 4 systolic arrays
    "tpu-v5e": (4 * 128 * 128 * 2, 1500),
    "tpu-v5p": (2 * 4 * 128 * 128 * 2, 1750),
    "xeon-8480-2s": (112 * 16 * 16 * 32 * 2 // 16, 2000),  # one tile product in 16 clocks
    "epyc-9654-2s": (192 * 2 * 16 * 2, 2400),
}
# name: (32-bit lanes, MHz): two FLOP a lane and clock
VECTOR = {
    "v100-32": (80 * 64, 1530),
    "a100-80": (108 * 64, 1410),
    "h100-sxm": (132 * 128, 1980),
    "h100-pcie": (114 * 128, 1755),
    "l40s": (142 * 128, 2520),
    "rtx-4090": (128 * 128, 2520),
    "rtx-5090": (170 * 128, 2407),
    "xeon-8480-2s": (112 * 32, 2000),
    "epyc-9654-2s": (192 * 16, 2400),
}
# name: (bits of the bus, Gb/s of a pin)
MEMORY = {
    "v100-16": (4096, 1.754),
    "a100-40": (5120, 2.43),
    "a100-80": (5120, 3.186),
    "a100-pcie-80": (5120, 3.024),
    "h100-sxm": (5120, 5.238),
    "h100-pcie": (5120, 3.186),
    "h100-nvl": (6144, 5.128),
    "h200": (6144, 6.25),
    "b200": (7680, 7.992),
    "gb200": (8192, 7.8),
    "l40s": (384, 18),
    "a10": (384, 12.5),
    "a40": (384, 14.5),
    "l4": (192, 12.5),
    "t4": (256, 10),
    "rtx-a6000": (384, 16),
    "rtx-6000-ada": (384, 20),
    "rtx-pro-6000": (512, 28),
    "rtx-3090": (384, 19.5),
    "rtx-4080": (256, 22.4),
    "rtx-4090": (384, 21),
    "rtx-5080": (256, 30),
    "rtx-5090": (512, 28),
    "mi250x": (4096, 3.2),
    "gaudi2": (6 * 1024, 3.2),
    "mi300x": (8192, 5.2),
    "xeon-8480-2s": (2 * 8 * 64, 4.8),
    "epyc-9654-2s": (2 * 12 * 64, 4.8),
}
# name: (links of one device, GB/s of one link in one direction)
LINKS = {
    "v100-32": (6, 25),
    "a100-80": (12, 25),
    "a800-80": (8, 25),
    "h100-sxm": (18, 25),
    "h800": (8, 25),
    "h200": (18, 25),
    "b200": (18, 50),
    "gb300": (18, 50),
    "mi300x": (7, 64),
    "mi355x": (7, 76.8),
    "gaudi2": (21, 12.5),
    "gaudi3": (21, 25),
    "tpu-v4": (6, 50),
    "tpu-v5e": (4, 50),
    "tpu-v5p": (6, 100),
    "tpu-v6e": (4, 100),
}
# name: rated kW of the maker's own node (a rack of 72 for gb200)
NODE_KW = {"v100-16": 3.5, "a100-80": 6.5, "h100-sxm": 10.2, "b200": 14.3, "gb200": 120}
SOURCED_FIELDS = {
    *("tflops", "memory_gib", "memory_nominal_gb", "memory_gb_per_s", "node_devices"),
    *("maker", "multiprocessors"),
    *("link_gb_per_s", "network_gb_per_s", "power_w", "host_power_w", "usd_per_hour", "usd_range"),
}
# as train_perf.csv and train_memory.csv write them, and the device that is meant
PUBLISHED = {
    "a100": "a100-80",
    "a100-80": "a100-80",
    "a100-40": "a100-40",
    "a800-80": "a800-80",
    "h100": "h100-sxm",
    "h200": "h200",
    "b200": "b200",
    "gb200": "gb200",
    "gb300": "gb300",
    "v100-16": "v100-16",
    "v100-32": "v100-32",
    "mi300x": "mi300x",
    "tpu-v5e": "tpu-v5e",
    "tpu-v5p": "tpu-v5p",
    "tpu-v6e": "tpu-v6e",
}


@pytest.mark.parametrize("name", MATRIX)
def test_matrix_peak_is_units_times_clock(name: str) -> None:
    flops_per_clock, mhz = MATRIX[name]
    assert device(name).peak("bf16") == pytest.approx(flops_per_clock * mhz * 1e6, rel=5e-3)


@pytest.mark.parametrize("name", VECTOR)
def test_fp32_peak_is_lanes_times_clock(name: str) -> None:
    lanes, mhz = VECTOR[name]
    assert device(name).peak("fp32") == pytest.approx(2 * lanes * mhz * 1e6, rel=5e-3)


@pytest.mark.parametrize("name", MEMORY)
def test_memory_bandwidth_is_bus_times_rate(name: str) -> None:
    bits, gbit_per_s = MEMORY[name]
    expected = bits * gbit_per_s * 1e9 / 8
    assert device(name).memory_bytes_per_s == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", LINKS)
def test_link_is_its_lanes_in_one_direction(name: str) -> None:
    count, gb_per_s = LINKS[name]
    assert device(name).link_bytes_per_s == count * gb_per_s * 1e9


@pytest.mark.parametrize("name", NODE_KW)
def test_power_of_a_node_is_its_rating(name: str) -> None:
    item = device(name)
    node_w = item.node_devices * (item.power_w + item.host_power_w)
    assert node_w == pytest.approx(1e3 * NODE_KW[name], rel=0.01)


@pytest.mark.parametrize("name", device_names())
def test_rates_are_dense_and_consistent(name: str) -> None:
    item = device(name)
    peaks = item.flops_per_s
    if "fp8" in peaks and name not in ("tpu-v5p", "gaudi3", "trainium1"):  # no faster 8-bit floats
        assert peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=0.03)
    if "tf32" in peaks and not name.startswith("rtx") and name not in ("gb10", "l20"):
        assert peaks["tf32"] == pytest.approx(peaks["bf16"] / 2, rel=0.02)
    if "nvfp4" in peaks:
        ultra, geforce = name in ("b300", "gb300"), name.startswith("rtx-50")
        expected = 3 if ultra else 4 if geforce else 2
        assert peaks["nvfp4"] / peaks["fp8"] == pytest.approx(expected, rel=1e-3)
    assert item.memory_bytes_per_s >= item.link_bytes_per_s >= item.network_bytes_per_s


@pytest.mark.parametrize("name", device_names())
def test_every_field_is_filled(name: str) -> None:
    item = device(name)
    numbers = (
        item.memory_bytes,
        item.memory_bytes_per_s,
        item.link_bytes_per_s,
        item.network_bytes_per_s,
        item.power_w,
        item.host_power_w,
        item.memory_nominal_gb,
        item.node_devices,
        *item.flops_per_s.values(),
    )
    assert all(0 < number < math.inf for number in numbers)
    assert item.kind in ("gpu", "tpu", "npu", "cpu") and 2016 < item.year < 2027
    # sold in GB or GiB; the driver keeps up to 8% (with error correction on GDDR)
    share = 0.75 if name.startswith("apple") else 0.91  # Metal's recommended working set
    assert share * item.memory_nominal_gb <= item.memory_bytes / GIB < 1.01 * item.memory_nominal_gb
    low, high = item.usd_range
    assert 0 < low <= item.usd_per_hour <= high


@pytest.mark.parametrize("name", device_names())
def test_every_field_has_a_source(name: str) -> None:
    sourced: set[str] = set()
    for source in device(name).sources:
        fields, _, document = source.partition(": ")
        assert len(document) > 9, source
        sourced |= set(fields.split(", "))
    assert sourced == SOURCED_FIELDS


def test_names_and_aliases_are_unique() -> None:
    names = [name for main in device_names() for name in (main, *device(main).aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and " " not in name and "_" not in name for name in names)


def test_published_names_mean_what_their_sources_mean() -> None:
    assert {name: device(name).name for name in PUBLISHED} == PUBLISHED
    assert device(" H100_SXM ").name == "h100-sxm"


@pytest.mark.parametrize(
    ("printed", "name"),
    [  # by nvidia-smi --query-gpu=name, and by rocm-smi
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("Tesla T4", "t4"),
        ("Tesla V100-PCIE-16GB", "v100-pcie-16"),
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("AMD Instinct MI250X / MI250", "mi250x"),
        ("AMD Instinct MI300X OAM", "mi300x"),
    ],
)
def test_names_that_tools_print_are_known(printed: str, name: str) -> None:
    assert device(printed).name == name


@pytest.mark.parametrize(
    ("typo", "near"), [("a6001", "a6000"), ("h10", "h100"), ("a100-8", "a100-80"), ("b20", "b200")]
)
def test_unknown_name_suggests_the_nearest(typo: str, near: str) -> None:
    with pytest.raises(SpecError, match="unknown device") as caught:
        device(typo)
    assert near in str(caught.value) and "tpu-v6e" in str(caught.value)


def test_missing_rate_falls_back_to_a_wider_type() -> None:
    assert device("v100-16").peak("bf16") == device("v100-16").peak("fp16") == 125e12
    assert device("a100").peak("mxfp8") == 312e12
    with pytest.raises(SpecError, match="no fp32 rate"):
        device("tpu-v5e").peak("fp32")


def test_price_may_be_replaced() -> None:
    assert replace(device("h100"), usd_per_hour=1.0).usd_per_hour == 1.0
    assert device("h100").usd_per_hour != 1.0


# CUDA cores or stream processors of the makers' pages, and how many one multiprocessor has
CORES = {
    "v100-32": (5120, 64),
    "a100-80": (6912, 64),
    "a30": (3584, 64),
    "t4": (2560, 64),
    "a10": (9216, 128),
    "a40": (10752, 128),
    "l4": (7424, 128),
    "l40s": (18176, 128),
    "h100-sxm": (16896, 128),
    "h100-pcie": (14592, 128),
    "rtx-3060": (3584, 128),
    "rtx-3060-ti": (4864, 128),
    "rtx-3070": (5888, 128),
    "rtx-3080": (8704, 128),
    "rtx-3080-ti": (10240, 128),
    "rtx-3090": (10496, 128),
    "rtx-3090-ti": (10752, 128),
    "rtx-4060": (3072, 128),
    "rtx-4060-ti": (4352, 128),
    "rtx-4070": (5888, 128),
    "rtx-4070-super": (7168, 128),
    "rtx-4070-ti": (7680, 128),
    "rtx-4070-ti-super": (8448, 128),
    "rtx-4080": (9728, 128),
    "rtx-4080-super": (10240, 128),
    "rtx-4090": (16384, 128),
    "rtx-5060-ti": (4608, 128),
    "rtx-5070": (6144, 128),
    "rtx-5070-ti": (8960, 128),
    "rtx-5080": (10752, 128),
    "rtx-5090": (21760, 128),
    "rtx-a5000": (8192, 128),
    "rtx-a6000": (10752, 128),
    "rtx-6000-ada": (18176, 128),
    "rtx-pro-6000": (24064, 128),
    "gb10": (6144, 128),
    "mi210": (6656, 64),
    "mi300x": (19456, 64),
    "mi300a": (14592, 64),
    "mi355x": (16384, 64),
}


@pytest.mark.parametrize("name", CORES)
def test_multiprocessors_are_cores_by_cores_of_one(name: str) -> None:
    cores, of_one = CORES[name]
    assert device(name).multiprocessors == cores / of_one


@pytest.mark.parametrize("name", device_names())
def test_the_maker_is_the_one_of_its_data_sheet(name: str) -> None:
    item = device(name)
    sheet = next(text for text in item.sources if "tflops" in text.partition(":")[0])
    assert item.is_nvidia == ("NVIDIA" in sheet)
    assert item.maker in " ".join(item.sources).lower() and item.multiprocessors > 0


def test_an_older_number_is_not_answered_by_a_newer() -> None:
    with pytest.raises(SpecError) as caught:
        device("gtx-1080-ti")
    assert "did you mean" not in str(caught.value)
