"""Measured serving rows: read, turned into deployments, and the constants fitted on them.

    python benchmarks/fit_serving.py silicon_sample.csv     # writes the package's silicon.csv

Facts of `systems/silicon_sample.csv` in the wheel aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0),
most of them first published by InferenceMAX / InferenceX.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.known_models import known_model
from whorl.arch.shape import AttentionShape, Experts, Latent, ModelShape
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.serving import times
from whorl.stages.plan.serving.choose import room_for
from whorl.stages.plan.serving.work import QUANTISATIONS, Deployment, decode_work, prefill_work

__all__ = ["Rows", "convert", "fit", "log_errors", "read_rows"]

SILICON = Path(times.__file__).parent / "silicon.csv"
FIELDS = (
    *("model", "device", "engine", "version", "quantisation", "input", "output", "concurrency"),
    *("devices", "expert_parallel", "attention_replicas", "burst", "ttft_ms", "tpot_ms"),
    "left_out",
)
# A word of model_path -> our name of the shape.
MODELS = (
    ("Llama-3.1-70B", "llama-3.1-70b"),
    ("Llama-3.1-8B", "llama-3.1-8b"),
    ("Qwen3-32B", "qwen3-32b"),
    ("Qwen3-235B", "qwen3-235b-a22b"),
    ("DeepSeek", "deepseek-v3"),
    ("Kimi", "kimi-k2"),
    ("gpt-oss-120b", "gpt-oss-120b"),
    ("GLM-5", "glm-5"),
    ("MiniMax", "minimax-m2.5"),
    ("Qwen3.5", "qwen3.5-397b-a17b"),
)
DEVICES = {"h100_sxm": "h100-sxm", "h200_sxm": "h200", "b200_sxm": "b200", "b300_sxm": "b300"}
WEIGHTS = {"fp4": "nvfp4", "int4": "int4", "fp8": "fp8", "bf16": "bf16", "": "bf16"}
# Shapes of models whose config.json our reader does not cover. Sparse attention (GLM-5 looks at
# 2,048 chosen tokens) and linear attention (the state of Qwen3.5 weighs as much as 2,048 tokens
# of keys and values) are counted as windows of 2,048 tokens.
SHAPES = {
    "minimax-m2.5": ModelShape(
        "minimax-m2.5", 62, 3072, 1536, 200064, AttentionShape(48, 8, 128), Experts(256, 8, 1536)
    ),
    "qwen3.5-397b-a17b": ModelShape(
        "qwen3.5-397b-a17b",
        60,
        4096,
        1024,
        248320,
        AttentionShape(32, 2, 256, window=2048, windowed=tuple(range(45))),
        Experts(512, 10, 1024, shared=1),
    ),
    "glm-5": ModelShape(
        "glm-5",
        78,
        6144,
        12288,
        154880,
        AttentionShape(
            64, 64, 256, 256, Latent(2048, 512, 64), window=2048, windowed=tuple(range(78))
        ),
        Experts(256, 8, 2048, shared=1, dense=(0, 1, 2)),
    ),
}
MAX_ROOM_FREE = 0.5  # a layout with less room than half a request is misstated


def convert(source: Path) -> list[dict[str, Any]]:
    """The single-pool ("agg") rows of silicon_sample.csv, one per measurement.

    Traps: the same measurement stands in several snapshots; some snapshots multiply tp_size by
    moe_ep_size (the id has the true pair); speculative decoding is not marked; layouts of 12 and
    more devices are split pools recorded as one.
    """
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    with source.open(encoding="utf-8") as lines:
        for raw in csv.DictReader(lines):
            if raw["mode"] == "agg":
                row = _row(raw)
                key = (row["ttft_ms"], row["tpot_ms"], row["input"], row["output"])
                first = seen.setdefault((*key, row["concurrency"]), row)
                if row["attention_replicas"] > 1:
                    first["attention_replicas"] = first["devices"]
    _mark_speculative(list(seen.values()))
    return list(seen.values())


def _row(raw: Mapping[str, str]) -> dict[str, Any]:
    where = raw["silicon_data_source"]
    number = {
        name: int(raw[name] or 1) or 1
        for name in raw
        if name.endswith("_size") and name.startswith(("tp", "attention", "moe"))
    }
    tensor, replicas = number["tp_size"], number["attention_dp_size"]
    expert_tensor, expert = number["moe_tp_size"], number["moe_ep_size"]
    named = re.search(r"_tp(\d+)(?:_0)?_ep(\d+|none)", raw["id"])
    if named and named[2] != "none":
        devices, expert = int(named[1]), int(named[2])
    elif named:
        devices = max(tensor, expert_tensor * expert)
        replicas = max(replicas, devices // tensor)
    elif tensor * replicas == expert_tensor * expert <= 8:
        devices = tensor * replicas
    else:
        devices = max(expert_tensor, expert) if max(expert_tensor, expert) <= 8 else tensor
    stated = re.search(r"silicon_concurrency=(\d+)", where)
    measured = re.search(r"measured=(\d{4}-\d\d)", where)
    model = next(name for word, name in MODELS if word in raw["model_path"])
    weights = "mxfp4" if model == "gpt-oss-120b" else WEIGHTS[raw["precision"]]
    burst = "/data/h100_sxm/sglang/" in where  # these files alone start every request at once
    return {
        "model": model,
        "device": DEVICES.get(raw["system"], raw["system"]),
        "engine": raw["backend"],
        "version": raw["backend_version"],
        "quantisation": weights,
        "input": int(raw["isl"]),
        "output": int(raw["osl"]),
        "concurrency": int(stated[1]) if stated else int(raw["batch_size"]),
        "devices": devices,
        "expert_parallel": int(expert > 1),
        "attention_replicas": devices if replicas > 1 else 1,
        "burst": int(burst),
        "ttft_ms": round(float(raw["silicon_ttft_ms"]), 1),
        "tpot_ms": round(float(raw["silicon_tpot_ms"]), 3),
        "left_out": "split pools" if devices > 8 else "",
        "month": measured[1] if measured else "",
    }


def _mark_speculative(rows: Sequence[dict[str, Any]]) -> None:
    """DeepSeek rows of two TensorRT-LLM images, and the faster of two rows with equal inputs."""
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["model"] != "deepseek-v3" or row["left_out"]:
            continue
        later = row["version"] == "1.1.0rc2.post2" and row["month"] >= "2026-01"
        if later or row["version"] == "1.2.0rc6.post3":
            row["left_out"] = "speculative"
        else:
            same[tuple(row[name] for name in FIELDS[:11])].append(row)
    for group in same.values():
        slowest = max(row["tpot_ms"] for row in group)
        for row in group:
            if row["tpot_ms"] < slowest / 1.2:
                row["left_out"] = "speculative"


@dataclass(frozen=True)
class Rows:
    """Measured rows as arrays: what the model is given, and what was measured."""

    decode: dict[str, NDArray[np.float64]]
    prefill: dict[str, NDArray[np.float64]]
    load: times.ReplicaLoad
    token_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    labels: dict[str, NDArray[np.str_]]  # model, device, engine

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        load = times.ReplicaLoad(**{name: value[mask] for name, value in vars(self.load).items()})
        cut = [
            {name: value[mask] for name, value in part.items()}
            for part in (self.decode, self.prefill, self.labels)
        ]
        return Rows(cut[0], cut[1], load, self.token_s[mask], self.first_s[mask], cut[2])


def read_rows(path: Path = SILICON, speculative: bool = False) -> tuple[Rows, Counter[str]]:
    """The rows that can be predicted, and how many were left out for which reason."""
    left_out: Counter[str] = Counter()
    kept, decode, prefill, running = [], [], [], []
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(line for line in lines if not line.startswith("#")):
            if speculative and row["left_out"] == "speculative":
                row["left_out"] = ""
            case = _deployment(row)
            room = 0.0 if case is None else room_for(case, int(row["input"]) + int(row["output"]))
            reason = row["left_out"] or ("does not fit" if room < MAX_ROOM_FREE else "")
            if case is None or reason:
                left_out[reason] += 1
                continue
            now = min(float(row["concurrency"]), max(1.0, room))
            kept.append(row)
            running.append(now)
            decode.append(decode_work(case, now, int(row["input"]) + int(row["output"]) // 2))
            prefill.append(prefill_work(case, 1, int(row["input"])))
    asked = np.array([float(row["concurrency"]) for row in kept])
    load = times.ReplicaLoad(
        engine=np.array([times.ENGINES.index(row["engine"]) for row in kept]),
        running=np.array(running),
        waiting=asked - np.array(running),
        output_tokens=np.array([float(row["output"]) for row in kept]),
        burst=np.array([row["burst"] == "1" for row in kept]),
    )
    labels = {name: np.array([row[name] for row in kept]) for name in ("model", "device", "engine")}
    measured = [np.array([float(row[name]) / 1e3 for row in kept]) for name in FIELDS[13:11:-1]]
    work = times.columns(decode), times.columns(prefill)
    return Rows(*work, load, measured[0], measured[1], labels), left_out


def _deployment(row: Mapping[str, str]) -> Deployment | None:
    if row["left_out"]:
        return None
    name = row["model"]
    return Deployment(
        SHAPES[name] if name in SHAPES else known_model(name),
        device(row["device"]),
        int(row["devices"]),
        QUANTISATIONS[row["quantisation"]],
        int(row["attention_replicas"]),
    )


# Name -> (start, lowest, highest). Shares of a peak rate, counts, or seconds.
BOUNDS: dict[str, tuple[float, float, float]] = {
    "weights": (0.8, 0.5, 0.95),
    "experts": (0.6, 0.3, 0.95),
    "cache": (0.6, 0.3, 0.95),
    "compute": (0.5, 0.2, 0.9),
    "expert_compute": (0.3, 0.1, 0.9),
    "network": (0.5, 0.1, 0.9),
    "routed": (10.0, 0.5, 30.0),
    "reduce_s": (1e-5, 1e-6, 4e-5),
    "expert_layer_s": (2e-5, 1e-6, 2e-4),
    "interleave": (0.8, 0.2, 1.5),
    "interleave_burst": (0.4, 0.1, 1.5),
    "queue": (0.05, 0.01, 0.2),
    "queue_burst": (0.5, 0.1, 0.8),
    "steps_before_first": (1.0, 0.5, 4.0),
    **{f"layer_s.{name}": (3e-5, 1e-6, 5e-4) for name in times.ENGINES[:3]},
    **{f"prefill_layer_s.{name}": (2e-4, 5e-6, 5e-3) for name in times.ENGINES[:3]},
    **{f"first_s.{name}": (0.03, 2e-3, 0.5) for name in times.ENGINES[:3]},
}
NO_ENGINE = dict.fromkeys(("layer_s.cpu", "prefill_layer_s.cpu", "first_s.cpu"), 0.0)
TOKEN_SCALE, FIRST_SCALE, FIRST_WEIGHT, PRIOR = 0.1, 0.2, 0.7, 0.1


def fit(rows: Rows) -> dict[str, float]:
    """Constants by robust least squares on the logarithms, each campaign weighing the same.

    A campaign is one model on one device with one engine.
    """
    from scipy.optimize import least_squares

    names = list(BOUNDS)
    start, low, high = (np.log([BOUNDS[name][i] for name in names]) for i in range(3))
    campaign = np.array(["|".join(three) for three in zip(*rows.labels.values(), strict=True)])
    _, index, sizes = np.unique(campaign, return_inverse=True, return_counts=True)
    weight = np.sqrt(len(index) / len(sizes) / sizes[index])

    def residuals(point: NDArray[np.float64]) -> NDArray[np.float64]:
        values = dict(zip(names, np.exp(point), strict=True)) | NO_ENGINE
        token, first = (-error for error in log_errors(rows, values))
        parts = weight * _huber(token / TOKEN_SCALE), weight * _huber(first / FIRST_SCALE)
        return np.concatenate([parts[0], FIRST_WEIGHT * parts[1], PRIOR * (point - start)])

    found = least_squares(residuals, start, bounds=(low, high), max_nfev=200)
    return dict(zip(names, (float(value) for value in np.exp(found.x)), strict=True)) | NO_ENGINE


def _huber(z: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z * z) - 1))
    return result


def log_errors(
    rows: Rows, values: Mapping[str, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log(measured / predicted) of the time per output token and of the time to the first."""
    latency = times.steady_state(rows.decode, rows.prefill, rows.load, values)
    return np.log(rows.token_s / latency.token_s), np.log(rows.first_s / latency.first_s)


if __name__ == "__main__":
    found = convert(Path(sys.argv[1]))
    with SILICON.open("w", encoding="utf-8", newline="") as out:
        out.write("# measured serving rows; facts from systems/silicon_sample.csv of the wheel\n")
        out.write("# aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0); layouts corrected as\n")
        out.write("# benchmarks/fit_serving.py says; burst: all requests at one moment\n")
        writer = csv.DictWriter(out, FIELDS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(found, key=lambda row: tuple(str(row[n]) for n in FIELDS)))
    print(len(found), Counter(row["left_out"] for row in found))
