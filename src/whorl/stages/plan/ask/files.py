"""`--from FILE` and words of other tools on the command line, as flags of `whorl plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.spec.train_keys import SEQ_LEN
from whorl.stages.plan.ask.axolotl import AXOLOTL, axolotl_defaults
from whorl.stages.plan.ask.deepspeed import apply_deepspeed
from whorl.stages.plan.ask.flags import FLAGS
from whorl.stages.plan.ask.layouts import layout_pairs, parse_batch
from whorl.stages.plan.ask.llamafactory import LLAMAFACTORY, llamafactory_defaults
from whorl.stages.plan.ask.megatron import read_megatron
from whorl.stages.plan.ask.objective import KINDS as OBJECTIVES
from whorl.stages.plan.ask.objective import objective
from whorl.stages.plan.ask.said import OtherWords, Rule, apply
from whorl.stages.plan.ask.texts import flat, read_mapping
from whorl.stages.plan.ask.torchtitan import TORCHTITAN, torchtitan_defaults
from whorl.stages.plan.ask.trainer import TRAINER, learned_by_default, trainer_defaults
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import software

__all__ = ["as_flags", "read_file", "read_words"]

BATCH = "--global-batch-tokens"
MISSPELT = 0.8  # how alike a flag of whorl must be spelt to go before other tools' words
PROMPT = 512  # tokens, where a file says nothing of it
SCRIPTS = (".sh", ".bash", ".slurm", ".sbatch")


class Tool(NamedTuple):
    rules: Mapping[str, Rule]
    defaults: Callable[[OtherWords], None]
    stack: str


TOOLS: Mapping[str, Tool] = {
    "axolotl": Tool(AXOLOTL, axolotl_defaults, "hf"),
    "llamafactory": Tool(LLAMAFACTORY, llamafactory_defaults, "hf"),
    "torchtitan": Tool(TORCHTITAN, torchtitan_defaults, "torchtitan"),
    "trainer": Tool(TRAINER, trainer_defaults, "hf"),
}
MARKS: Mapping[str, list[str]] = fact("marks")  # keys that no other tool has
DEEPSPEED_MARKS = {"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"}


def read_file(path: Path) -> OtherWords:
    """A configuration of another tool. Which, its keys tell. Raises SpecError."""
    if path.suffix.lower() in SCRIPTS:
        return read_megatron(path)
    values = read_mapping(path)
    if DEEPSPEED_MARKS & set(values) and not isinstance(values.get("deepspeed"), Mapping):
        said = OtherWords("deepspeed", where=str(path))
        apply_deepspeed(said, values)
        return said
    whole = flat(values)
    found = {name: len(set(MARKS[name]) & set(whole)) for name in TOOLS}
    name = max(found, key=lambda item: found[item])
    if not found[name]:
        raise SpecError(
            f"--from {path} is of no tool that is known",
            found=", ".join(list(values)[:8]),
            expected=", ".join([*TOOLS, "deepspeed (JSON)", "megatron (a shell script)"]),
            do="a recipe of whorl is given without --from" if "data" in values else None,
        )
    said, tool = OtherWords(name, where=str(path)), TOOLS[name]
    inline = {key: whole.pop(key) for key in list(whole) if key.startswith("deepspeed.")}
    if inline:
        apply_deepspeed(said, values["deepspeed"])
    apply(said, tool.rules, whole)
    said.flags.setdefault("--stack", tool.stack)
    tool.defaults(said)
    return said


def _check_words(words: Iterable[str]) -> None:
    """Raises SpecError, with the nearest that is known, for a word that is none."""
    for word in words:
        if word not in TRAINER:
            flags = ["json", "set", "home", "compare", "published"]
            flags += [item.name for item in FLAGS if item.name != "from_file"]
            own = get_close_matches(word, flags, n=2, cutoff=MISSPELT)
            near = own or get_close_matches(word, [*flags, *TRAINER], n=2)
            raise SpecError(
                f"unknown option --{word}",
                do=f"did you mean --{' or --'.join(near)}?" if near else "whorl plan --help",
            )


def read_words(words: Mapping[str, object], said: OtherWords | None = None) -> OtherWords:
    """Words of the Trainer given beside whorl's own flags; they go before those of a file.

    Raises SpecError for a word that is none.
    """
    _check_words(words)
    own = OtherWords("trainer")
    apply(own, TRAINER, words)
    if said is None:
        learned_by_default(own)
        return own
    said.flags |= own.flags
    said.parts |= own.parts
    said.origin |= own.origin
    said.became += own.became
    said.warnings += own.warnings
    said.passed += own.passed
    if {"gradient_accumulation_steps", "per_device_train_batch_size"} & set(words):
        said.sequences = None
    if "gradient_accumulation_steps" in words:
        said.accumulation = own.accumulation
    said.learned |= own.learned
    said.steps = own.steps or said.steps
    said.dp = own.dp or said.dp
    learned_by_default(said)
    return said


def as_flags(
    said: OtherWords, given: Mapping[str, Any], told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The flags, those given going before, those of a recipe (`told`) behind; the batch follows
    from micro-batch, accumulation and devices. What is given beside a file that says otherwise is
    told.

    Raises SpecError where a stated degree does not divide the devices.
    """
    flags: dict[str, Any] = {**(told or {}), **said.flags, **given}
    if told is None and said.tool == "trainer":
        flags.setdefault("--stack", "hf")
    for flag, value in given.items():
        if said.flags.get(flag, value) != value:
            said.became.append(
                f"{flag} {value} goes before {said.origin.get(flag, said.where or said.tool)}"
            )
    parts = dict(said.parts)
    _learned(said, flags)
    if "mbs" in parts and "--objective" in flags:
        kind = objective(str(flags["--objective"]), 2**20, is_adapter=True)
        parts["mbs"] = str(parse_count(parts["mbs"], "mbs") * kind.per_example)
    if "--layout" in given:
        parts |= layout_pairs(str(given["--layout"]), "--layout")
    ranks = 1
    for name in ("tp", "pp", "cp"):
        ranks *= parse_count(parts.get(name, 1), name)
    if "--count" not in flags:
        flags["--count"] = str(ranks * (said.dp or 1))
        said.became.append(f"--count {flags['--count']}: no number of devices is said")
    devices = parse_count(flags["--count"], "--count")
    if devices % ranks:
        raise SpecError(f"{devices} devices are not divisible by tp x pp x cp, {ranks}")
    if said.dp is not None and said.dp * ranks != devices:
        raise SpecError(f"dp {said.dp} x tp x pp x cp {ranks} is not {devices} devices")
    _shard(said, parts, str(flags.get("--stack", "")), devices // ranks)
    is_stated = BATCH in given or said.sequences is not None
    if "accumulation" in said.origin and not is_stated:
        _one_each(said, parts)
    _batch(said, parts, flags, given, devices // ranks)
    if set(parts) - {"shard"} or "shard" in said.origin:
        _one_each(said, parts)
        if "shard" not in parts:
            parts["shard"] = "zero1"
            said.became.append("shard=zero1: nothing is said of sharding")
        flags["--layout"] = ",".join(f"{name}={value}" for name, value in parts.items())
    return flags


def _one_each(said: OtherWords, parts: dict[str, str]) -> None:
    if "mbs" not in parts:
        parts["mbs"] = "1"
        said.became.append("mbs=1: no micro-batch is said")


def _learned(said: OtherWords, flags: dict[str, Any]) -> None:
    """--objective from what the keys said of it; of a length that nothing says, TRL's."""
    of = (
        {"completion": "512", **said.learned}
        if said.learned.get("kind") == "grpo"
        else said.learned
    )
    if of.get("kind") and "--objective" not in flags:
        allowed = {key: of[key] for key in OBJECTIVES[of["kind"]] if key in of}
        pairs = (f"{key}={value}" for key, value in allowed.items())
        flags["--objective"] = ",".join((of["kind"], *pairs))
    if of.get("kind") == "grpo" and "--seq" not in flags:
        flags["--seq"] = str(PROMPT + parse_count(of["completion"], "completion"))
        said.became.append(f"--seq {flags['--seq']}: prompts of {PROMPT} tokens, and completions")


def _batch(
    said: OtherWords, parts: Mapping[str, str], flags: dict[str, Any], given: Mapping[str, Any],
    dp: int,
) -> None:  # fmt: skip
    """Tokens of a step from micro-batch, accumulation and ranks, and of all steps. Of a recipe's
    batch a micro-batch alone is a part; an accumulation beside it says another one."""
    if "--seq" not in flags:
        return
    seq_len = SEQ_LEN.read(flags["--seq"], "--seq")
    step = said.sequences
    if step is None and "mbs" in parts:
        step = parse_count(parts["mbs"], "mbs") * said.accumulation * dp
    if BATCH in given:
        asked = parse_batch(given[BATCH], seq_len)
        if step not in (None, asked) and (said.sequences or said.accumulation > 1):
            said.became.append(f"{BATCH} {given[BATCH]} goes before {step} sequences a step")
        step = asked
    elif BATCH in flags and not (said.where or said.sequences or "accumulation" in said.origin):
        step = parse_batch(flags[BATCH], seq_len)
    is_by_steps = said.steps and not {"--tokens", "--budget"} & set(given)
    if is_by_steps and (step is not None or "--tune" in flags):  # else nothing takes its place
        flags.pop("--budget", None)
    if step is None:
        return
    if BATCH not in given and str(flags.get(BATCH)) != str(step * seq_len):
        flags[BATCH] = str(step * seq_len)
        said.became.append(f"{step} sequences a step: {BATCH} {flags[BATCH]}")
    if said.steps and is_by_steps:
        flags["--tokens"] = str(said.steps * step * seq_len)


def _shard(said: OtherWords, parts: dict[str, str], stack: str, dp: int) -> None:
    """What is sharded where nothing says so: nothing, but by software that is there to shard."""
    if dp == 1:
        parts["shard"] = "none"
    elif "shard" not in parts and said.tool in ("trainer", "axolotl", "llamafactory"):
        of = software(stack) if stack else None
        if of is not None and of.name in ("fsdp", "torchtitan"):
            parts["shard"] = "zero3"
        elif of is not None and of.of_data:
            parts["shard"] = "none"
        if of is not None and of.of_data and "mbs" in parts:
            said.became.append("no fsdp, no deepspeed: each device holds the whole model (DDP)")
