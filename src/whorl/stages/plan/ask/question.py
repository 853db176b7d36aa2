"""The question that flags ask, and what a recipe says as flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from whorl.arch.hf_config import stored_in
from whorl.arch.layers import layers_with
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.spec.quantities import Quantity, Whole
from whorl.spec.recipe import DEVICES, PRICE, TOKENS, VOCAB_SIZE
from whorl.spec.train_keys import BATCH_TOKENS, SEQ_LEN
from whorl.stages.plan.ask.layouts import parse_batch, parse_layout
from whorl.stages.plan.ask.objective import KINDS, Learned, objective
from whorl.stages.plan.ask.rules import OPTIMIZERS, PRECISIONS
from whorl.stages.plan.ask.trainer import targets
from whorl.stages.plan.cluster.devices import HERE, Device, device
from whorl.stages.plan.cluster.images import parse_images
from whorl.stages.plan.cluster.job import (
    Layout,
    Lora,
    LossKind,
    Optimizer,
    Precision,
    Stack,
    Task,
    TrainingJob,
)
from whorl.stages.plan.cluster.learning import NEXT_TOKENS
from whorl.stages.plan.cluster.row_words import BASES
from whorl.stages.plan.output.schema import Question
from whorl.stages.plan.software import software

if TYPE_CHECKING:
    from whorl.spec.recipe import Recipe

__all__ = ["job_of", "question", "recipe_flags", "recipe_warnings", "with_batch"]

BATCH = "--global-batch-tokens"
NEEDED = {"--device": "h100-sxm", "--count": "64", "--seq": "8192", BATCH: "4M"}
HERE_NEEDS = NEEDED | {"--seq": "512", BATCH: "16k"}  # of one machine
IN_RECIPE = {"--device": "hardware", "--count": "hardware", "--seq": "train.seq_len"}
IN_RECIPE |= {BATCH: "train.batch_tokens"}
TRAINERS = "; as the Trainer has it --per_device_train_batch_size 2 --gradient_accumulation_steps 8"
RANK = Whole(1, 4096)
TUNES = ("full", "lora", "qlora", "dora")
ADAPTERS = ("--rank", "--targets", "--base-format")
Flags = Mapping[str, Any]  # "--count" -> what was given, None if nothing was


def recipe_flags(recipe: Recipe, given: Flags | None = None) -> dict[str, Any]:
    """What a recipe says of a cluster plan, as the flags that would say it; `given` goes before."""
    hardware, train, budget = recipe.hardware, recipe.train, recipe.budget
    spent = {
        "time": f"{budget.train_time}s" if budget.train_time else None,
        "device_hours": budget.device_hours,
        "usd": budget.usd,
        "flops": budget.flops,
    }
    given = given or {}
    tokens, batch = budget.tokens, given.get(BATCH, train.batch_tokens)
    if train.steps != "auto" and batch != "auto":
        tokens = train.steps * BATCH_TOKENS.read(batch, BATCH)
    said = {
        "--device": hardware.device,
        "--count": None if hardware.is_here else hardware.count,
        "--usd-per-device-hour": hardware.usd_per_device_hour,
        "--seq": train.seq_len,
        "--global-batch-tokens": train.batch_tokens,
        "--precision": train.precision,
        "--optimizer": train.optimizer,
        "--vocab": recipe.prepare.vocab_size if recipe.model.layers == "auto" else None,
        "--tokens": tokens,
        "--budget": next((f"{kind}={value}" for kind, value in spent.items() if value), None),
    }
    said |= _tuned(recipe)
    if "--tune" in given:
        said |= dict.fromkeys(("--rank", "--targets", "--base-format"))
    if "--tokens" in given or "--budget" in given:
        said |= {"--tokens": None, "--budget": None}
    return {flag: value for flag, value in said.items() if value not in (None, "auto")} | {**given}


def _tuned(recipe: Recipe) -> dict[str, Any]:
    """What is trained of a base, as whorl trains it; nothing of a pretraining."""
    lora, learned = recipe.train.lora, recipe.train.objective
    of = {"--objective": learned} if learned in KINDS else {}
    if lora is None:
        return {} if learned == "pretrain" else {"--tune": "full", "--stack": "whorl", **of}
    tune = "qlora" if lora.base == "nf4" else "lora"
    return {
        "--tune": "dora" if lora.dora else tune,
        "--stack": "whorl",
        **of,
        "--rank": lora.rank,
        "--targets": lora.targets if lora.targets == "all" else ",".join(lora.targets),
        "--base-format": lora.base,
    }


def recipe_warnings(recipe: Recipe) -> list[str]:
    """What of a recipe changes memory or time and is not planned for other hardware."""
    train = recipe.train
    told = []
    if train.objective not in ("pretrain", "sft", *KINDS):
        told.append(f"train.objective {train.objective}: planned as supervised fine-tuning")
    if train.lora is not None and train.lora.last_layers is not None:
        told.append("train.lora.last_layers: planned with adapters in every layer")
    return told


def _check_given(shape: ModelShape | None, flags: Flags) -> None:
    """What a cluster plan needs is given, and nothing that does not go together."""
    if empty := [flag for flag, value in flags.items() if value == ""]:
        raise SpecError(f"{', '.join(empty)}: nothing is given", do="give a value or leave it out")
    is_bought = "--budget" in flags
    missing = [flag for flag in NEEDED if flag not in flags]
    usual = HERE_NEEDS if getattr(flags.get("--device"), "name", "") == HERE else NEEDED
    is_by_law = is_bought and missing == [BATCH] and "--measured" not in flags
    if missing and not is_by_law:
        raise SpecError(
            f"a plan of training needs {', '.join(missing)}",
            do=f"such as {' '.join(f'{flag} {usual[flag]}' for flag in missing)}; in a recipe "
            f"{', '.join(dict.fromkeys(IN_RECIPE[flag] for flag in missing))}"
            + (TRAINERS if BATCH in missing else ""),
        )
    if is_bought and "--tokens" in flags:
        raise SpecError("--budget and --tokens both say how long to train", do="keep one of them")
    for flag in ("--layout", "--measured") if shape is None else ("--vocab",):
        if flag in flags:
            found = "the budget chooses the size" if shape is None else "a model is given"
            raise SpecError(f"{flag} does not go with this plan", found=found, do="leave it out")
    stray = [flag for flag in ADAPTERS if flag in flags]
    if stray and flags.get("--tune", "full") == "full":
        raise SpecError(f"{', '.join(stray)} go with adapters", do="add --tune lora, qlora or dora")


def _word(flags: Flags, flag: str, default: str, words: Mapping[str, str], known: tuple[str, ...]
          ) -> str:  # fmt: skip
    """One of our names, or another tool's word for one. Raises SpecError."""
    text = str(flags.get(flag) or default)
    if text in known:
        return text
    found = words.get(text.lower().replace("-", "_"))
    if found is None:
        also = ", ".join(sorted(set(words) - set(known)))
        raise SpecError(flag, found=text, expected=f"{', '.join(known)}; or in other words {also}")
    return found


def _became(asked: Question, flags: Flags) -> list[str]:
    """Flags that were said in other words than ours."""
    precision = f"{asked.precision}-true" if asked.pure_low_precision else asked.precision
    read = {"--precision": precision, "--optimizer": asked.optimizer, "--stack": asked.stack}
    if asked.rank:
        read |= {"--targets": asked.targets, "--base-format": asked.base_format}
    return [
        f"{flag} {flags[flag]}: {value}"
        for flag, value in read.items()
        if flag in flags and str(flags[flag]) not in (value, "bf16" if value == "none" else value)
    ]


def _tuning(name: str, flags: Flags) -> dict[str, Any]:
    """tune, rank, targets and base_format, defaults filled in: the base is stored as it says."""
    tune = str(flags.get("--tune", ""))
    if tune and tune not in TUNES:
        raise SpecError("--tune", found=tune, expected=", ".join(TUNES))
    if tune in ("", "full"):
        return {"tune": "full" if "--objective" in flags else tune}
    base = str(flags.get("--base-format", "")).lower()
    if not base:
        stored = stored_in(name)
        base = stored if stored in BASES else "nf4" if tune == "qlora" else "bf16"
    if base not in BASES:
        raise SpecError("--base-format", found=base, expected=", ".join(BASES))
    return {
        "tune": tune,
        "rank": RANK.read(flags.get("--rank", 8), "--rank"),
        "targets": targets(str(flags.get("--targets", "all"))),
        "base_format": BASES[base],
    }


def _objective(flags: Flags, seq_len: int) -> dict[str, Any]:
    text = flags.get("--objective")
    if not text:
        return {}
    found = objective(text, seq_len, flags.get("--tune", "full") != "full")
    return {"objective": text, "per_example": found.per_example}


def with_batch(flags: Flags, steps: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """A fine-tuning of which no batch is said has one micro-batch of --layout, or one sequence, for
    each device, and says so. steps: how many are asked for, in other words. Raises SpecError."""
    others = {BATCH, "--budget", "--objective", "--measured"} & set(flags)
    if not {"--tune", "--seq", "--count"} <= set(flags) or others:
        return {**flags}, []
    devices, each = DEVICES.read(flags["--count"], "--count"), "one sequence for each device"
    sequences = devices
    if "--layout" in flags:
        layout = parse_layout(str(flags["--layout"]), devices)
        sequences = layout.dp * layout.micro_batch
        each = f"one micro-batch for each data-parallel rank of --layout {flags['--layout']}"
    tokens = sequences * SEQ_LEN.read(flags["--seq"], "--seq")
    found = {**flags, BATCH: str(tokens)} | ({"--tokens": str(steps * tokens)} if steps else {})
    return found, [f"no batch is said: planned with {each}, {BATCH} {tokens}"]


def question(name: str, shape: ModelShape | None, flags: Flags) -> Question:
    """The flags, read. Raises SpecError for what is missing or makes no sense."""
    _check_given(shape, flags)
    target = device(flags["--device"])
    usual = "hf" if flags.get("--tune") or flags.get("--objective") else "megatron"
    usual = {"tpu": "xla", "cpu": "whorl"}.get(target.kind, usual)
    stack = software(str(flags.get("--stack") or usual)).name
    precision = _word(flags, "--precision", target.usual_precision, PRECISIONS, get_args(Precision))
    is_pure = software(stack).trains_pure and precision != "fp32"
    for flag, expected in (("--loss", get_args(LossKind)), ("--attention", ("flash", "eager"))):
        if flag in flags and flags[flag] not in expected:
            raise SpecError(flag, found=flags[flag], expected=", ".join(filter(None, expected)))
    seq_len = SEQ_LEN.read(flags["--seq"], "--seq")

    def given(flag: str, kind: Quantity) -> Any:
        return kind.read(flags[flag], flag) if flag in flags else None

    asked = Question(
        model=name,
        device=target.name,
        count=DEVICES.read(flags["--count"], "--count"),
        seq_len=seq_len,
        global_batch=parse_batch(flags[BATCH], seq_len) if BATCH in flags else 0,
        precision=precision.removesuffix("-true"),
        pure_low_precision=precision.endswith("-true") or is_pure,
        optimizer=_word(flags, "--optimizer", "adamw", OPTIMIZERS, get_args(Optimizer)),
        stack=stack,
        **_tuning(name, flags),
        **_objective(flags, seq_len),
        images=str(flags.get("--images") or ""),
        loss=flags.get("--loss") or "",
        document_tokens=given("--document-tokens", SEQ_LEN) or 0,
        step_in_backward=bool(flags.get("--step-in-backward")),
        attention=flags.get("--attention") or "flash",
        tokens=given("--tokens", TOKENS),
        budget=flags.get("--budget") or "",
        vocab_size=given("--vocab", VOCAB_SIZE),
        unique_tokens=given("--unique-tokens", TOKENS),
        served_tokens=given("--served-tokens", TOKENS),
        usd_per_device_hour=given("--usd-per-device-hour", PRICE),
        layout=flags.get("--layout") or "",
        measured=flags.get("--measured") or "",
        tables=bool(flags.get("--tables")),
        serve=flags.get("--serve") or "",
    )
    if shape and not layers_with(shape, "attention") and asked.targets not in ("", "all"):
        has = f"all: {shape.name} has no attention"
        raise SpecError("--targets", found=asked.targets, expected=has)
    return asked.model_copy(update={"became": _became(asked, flags)})


def job_of(asked: Question, shape: ModelShape, target: Device) -> TrainingJob:
    """The job that is asked for, its layout still open."""
    learned = Learned(NEXT_TOKENS, 1)
    if asked.objective:
        learned = objective(asked.objective, asked.seq_len, asked.tune != "full")
    images, pixels = parse_images(asked.images) if asked.images else (0, 0)
    adapters = None
    if asked.tune not in ("", "full"):
        kinds = {"base": cast(Any, asked.base_format), "targets": cast(Any, asked.targets)}
        adapters = Lora(rank=asked.rank, dora=asked.tune == "dora", **kinds)
    tasks: dict[str, Task] = {"": "pretrain", "full": "sft"}
    return TrainingJob(
        shape=shape,
        device=target,
        layout=Layout(asked.count),
        seq_len=asked.seq_len,
        global_batch=asked.global_batch,
        precision=cast(Precision, asked.precision),
        optimizer=cast(Optimizer, asked.optimizer),
        stack=cast(Stack, asked.stack),
        task=tasks.get(asked.tune, "lora"),
        lora=adapters,
        pure_low_precision=asked.pure_low_precision,
        flash_attention=asked.attention != "eager",
        loss=cast(LossKind, asked.loss),
        learning=learned.learning,
        per_example=learned.per_example,
        images=images,
        image_pixels=pixels,
        document_tokens=asked.document_tokens,
        step_in_backward=asked.step_in_backward,
    )
