"""A device from a file: what is read, what is taken from another card, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from whorl.arch.known_models import known_model
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.own_device import device_text, read_device
from whorl.stages.plan.serving.choose import plan_serving
from whorl.stages.plan.serving.target import ServingTarget

CARD = {
    **{"name": "my-card", "tflops": {"bf16": 100, "fp32": 20}, "memory_gib": 47.5},
    **{"memory_gb_per_s": 900, "node_devices": 4, "link_gb_per_s": 64, "power_w": 275},
}


def written(folder: Path, **changes: object) -> str:
    values = {key: value for key, value in {**CARD, **changes}.items() if value is not None}
    path = folder / "my-card.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return str(path)


def test_every_fact_is_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    card = device(path)
    assert (card.kind, card.node_devices, card.power_w) == ("gpu", 4, 275)
    assert card.name == path and device(card.name) == card  # a plan keeps the name alone
    assert (card.peak("bf16"), card.peak("fp8"), card.peak("fp32")) == (1e14, 1e14, 2e13)
    assert card.memory_bytes == 47.5 * 2**30
    assert (card.memory_bytes_per_s, card.link_bytes_per_s) == (9e11, 6.4e10)


def test_what_is_not_given_is_the_other_card_s(tmp_path: Path) -> None:
    path = tmp_path / "faster.yml"
    path.write_text("like: a100\nmemory_gib: 95\ntflops: {fp8: 624}\n", "utf-8")
    card, a100 = device(str(path)), device("a100")
    assert card.memory_bytes == 95 * 2**30
    assert card.peak("bf16") == a100.peak("bf16") and card.peak("fp8") == 624e12
    assert card.link_bytes_per_s == a100.link_bytes_per_s


@pytest.mark.parametrize("name", ["h100-sxm", "rtx-3090", "gaudi2"])
def test_a_written_device_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(device_text(device(name)), "utf-8")
    again, known = read_device(path), device(name)
    for field in ("memory_bytes", "memory_bytes_per_s", "link_bytes_per_s", "network_bytes_per_s"):
        assert getattr(again, field) == pytest.approx(getattr(known, field), rel=1e-3)
    assert {kind: pytest.approx(rate, rel=1e-3) for kind, rate in known.flops_per_s.items()} == (
        again.flops_per_s
    )
    for field in ("kind", "node_devices", "maker", "multiprocessors", "catalogued"):
        assert getattr(again, field) == getattr(known, field)


@pytest.mark.parametrize(
    ("name", "like", "is_nvidia"),
    [
        ("card.yaml", "mi300x", False),
        ("mini.yaml", "rtx-4090", True),
        ("a.yaml", "arc-b580", False),
    ],
)
def test_the_maker_is_that_of_the_other_card(
    tmp_path: Path, name: str, like: str, is_nvidia: bool
) -> None:
    """Whatever the file is called: TensorRT-LLM is offered for NVIDIA's cards alone."""
    (tmp_path / name).write_text(f"like: {like}\n", "utf-8")
    card, known = device(str(tmp_path / name)), device(like)
    assert card.is_nvidia is is_nvidia
    assert (card.maker, card.multiprocessors) == (known.maker, known.multiprocessors)
    target = ServingTarget(1, 512, 64, engines=("trtllm",))
    shape = known_model("llama-3.2-1b")
    if is_nvidia:
        assert plan_serving(shape, card, target).engine == "trtllm"
    else:
        with pytest.raises(SpecError, match=r"engine on .*found: trtllm; expected: vllm"):
            plan_serving(shape, card, target)


def test_a_maker_that_is_not_stated_is_asked_for(tmp_path: Path) -> None:
    card = device(written(tmp_path))
    target = ServingTarget(1, 512, 64, engines=("trtllm",))
    with pytest.raises(SpecError, match="maker: nvidia"):
        plan_serving(known_model("llama-3.2-1b"), card, target)
    assert device(written(tmp_path, maker="nvidia", multiprocessors=84)).is_nvidia


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tflop": 3}, "tflop is not known"),
        ({"memory_gib": None}, "has no memory_gib"),
        ({"memory_gib": 0}, "memory_gib"),
        ({"memory_gb_per_s": "fast"}, "memory_gb_per_s"),
        ({"power_w": -1}, "power_w"),
        ({"node_devices": 1.5}, "node_devices"),
        ({"kind": "abacus"}, "kind"),
        ({"tflops": {"bf17": 3}}, "bf17"),
        ({"tflops": {}}, "tflops"),
        ({"like": "h999"}, "unknown device"),
    ],
    ids=str,
)
def test_what_makes_no_device_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        read_device(written(tmp_path, **changes))


def test_a_file_that_is_not_there_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="whorl doctor --device"):
        device(str(tmp_path / "none.yaml"))
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n", "utf-8")
    with pytest.raises(SpecError, match="no device"):
        device(str(path))
