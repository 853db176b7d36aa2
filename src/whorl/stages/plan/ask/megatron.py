"""Arguments of Megatron-LM, read out of a shell script that is never run.

Of the shell, variables that the script itself sets to a plain text are known ($TP, ${TP},
${TP:-8}); what commands or arithmetic would give is not, and is named. Sizes of the model are
arguments too. Source: megatron/training/arguments.py.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from whorl.arch.shape import AttentionShape, Experts, ModelShape
from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.stages.plan.ask.rules import NOT_PLANNED, choice, kept, rules_of
from whorl.stages.plan.ask.said import OtherWords, Rule, apply
from whorl.stages.plan.ask.texts import text_of
from whorl.stages.plan.facts import fact

__all__ = ["arguments_of", "read_megatron"]

SET = re.compile(r"(?:export\s+|local\s+|declare\s+)?([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)
USED = re.compile(r"\$\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|\$([A-Za-z_]\w*)")
MOST_ROUNDS = 8  # variables of variables
SIZES: Mapping[str, str] = fact("megatron.sizes")
LISTS = ("recompute-modules",)
SWITCHES: list[str] = fact("megatron.switches")


def _moments(said: OtherWords, key: str, value: str) -> None:
    """exp-avg-dtype of the precision-aware optimiser."""
    said.flags.pop("--optimizer", None)  # adam
    choice("--optimizer", fact("megatron.moments"))(said, key, value)


def _parts(said: OtherWords, key: str, value: str) -> None:
    said.put("recompute_parts", value.replace(" ", "+"), key, value)


RULES: Mapping[str, Rule] = {
    **rules_of("megatron"),
    "num-layers-per-virtual-pipeline-stage": kept("layers of a chunk"),
    "recompute-granularity": choice("recompute", {"full": "full", "selective": "selective"}),
    "recompute-modules": _parts,
    "exp-avg-dtype": _moments,
    "attention-backend": choice("--attention", fact("megatron.backends")),
    "data-parallel-sharding-strategy": kept("strategy"),
    "recompute-num-layers": kept("recomputed at once"),
    **dict.fromkeys(("use-megatron-fsdp", "use-torch-fsdp2"), kept("fsdp")),
    **dict.fromkeys(("nproc_per_node", "nproc-per-node", "nnodes"), kept("devices")),
}


def _words(text: str) -> list[str]:
    text = re.sub(r"\\\r?\n", " ", text)
    text = re.sub(r"(?<!\$)[()]", " ", text)  # ARGS=( … ): an array
    with contextlib.suppress(ValueError):
        return shlex.split(text, comments=True)
    found: list[str] = []
    for line in text.splitlines():
        try:
            found += shlex.split(line, comments=True)
        except ValueError:  # a quote that is not closed
            found += line.split()
    return found


def _expanded(word: str, known: Mapping[str, str]) -> str:
    for _ in range(MOST_ROUNDS):
        changed = USED.sub(lambda m: known.get(m[1] or m[3], m[2] or m[0]), word)
        if changed == word or len(changed) > 10_000:
            break
        word = changed
    return word


def arguments_of(text: str) -> dict[str, str]:
    """{"tensor-model-parallel-size": "8", "bf16": "true"} of a script; the last counts."""
    known: dict[str, str] = {}
    words: list[str] = []
    for word in _words(text):
        assigned = SET.fullmatch(word)
        if assigned and not word.startswith("-"):
            known[assigned[1]] = assigned[2]
            words += assigned[2].split() if "--" in assigned[2] else []
        else:
            words.append(word)
    found: dict[str, str] = {}
    name = ""
    for word in (each for item in words for each in _expanded(item, known).split()):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else "true"
            name = "" if equals or name in SWITCHES else name
        elif name and not word.startswith(("&", "|", ">", "<", ";")):
            is_list = name in LISTS and found[name] != "true"
            found[name] = f"{found[name]} {word}" if is_list else word
            name = name if name in LISTS else ""
    return found


def read_megatron(path: Path) -> OtherWords:
    """Raises SpecError if the script has no arguments of Megatron's, or one is not known."""
    said = OtherWords("megatron", where=str(path))
    given = arguments_of(text_of(path))
    if not {"num-layers", "tensor-model-parallel-size", "micro-batch-size"} & set(given):
        raise SpecError(
            f"{path} has no arguments of Megatron-LM", found=", ".join(given)[:100] or "none",
            expected="--num-layers, --micro-batch-size …",
        )  # fmt: skip
    for name, value in list(given.items()):
        if "$" in value and (name in RULES or name in SIZES):
            said.warn(f"--{name}", value, "only a shell knows its value: left out, give it as flag")
            del given[name]
    of_weight = {name: given[name] for name in RULES if name in given}  # in the rules' order
    said.flags["--stack"] = "megatron"
    if "fp8-format" in given or "fp8-recipe" in given:
        of_weight.pop("bf16", None)
    if "fp8-format" in given and "fp8-recipe" not in given:
        said.put("--precision", "fp8", "--fp8-format", given["fp8-format"])
    rest = {name: value for name, value in given.items() if name not in RULES}
    apply(
        said,
        {**RULES, **dict.fromkeys((*SIZES, *fact("megatron.of_model")), _of_model)},
        of_weight | rest,
    )
    if "--precision" not in said.flags:
        said.put("--precision", "fp32", "--bf16, --fp16", "not given")
    _sharded(said, given)
    _recomputed(said, given)
    said.parts.setdefault("shard", "none")
    if said.parts.get("tp", "1") != "1":
        said.parts.setdefault("sp", "0")
    _finish(said, given)
    return said


def _sharded(said: OtherWords, given: Mapping[str, str]) -> None:
    """FSDP goes before the distributed optimiser: Megatron's by its strategy, torch's is whole."""
    if "fsdp" not in said.origin:
        return
    key, strategy = "--use-torch-fsdp2", "optim_grads_params"
    if "use-megatron-fsdp" in given:
        key, strategy = "--data-parallel-sharding-strategy", said.origin.get("strategy", "no_shard")
    strategies = fact("megatron.strategies")
    if strategy not in strategies:
        raise SpecError(key, found=strategy, expected=", ".join(strategies))
    said.parts.pop("shard", None)
    said.put("shard", strategies[strategy], key, strategy)


def _recomputed(said: OtherWords, given: Mapping[str, str]) -> None:
    """Full recomputation is planned of every layer by itself: uniform, one at a time."""
    at_once, method = given.get("recompute-num-layers", "1"), given.get("recompute-method")
    if said.parts.get("recompute") == "full" and (at_once != "1" or method == "block"):
        said.warn("--recompute-num-layers", at_once, NOT_PLANNED)


def _of_model(said: OtherWords, key: str, value: str) -> None:
    """Read with the others of the model, or as what another argument says."""


def _finish(said: OtherWords, given: Mapping[str, str]) -> None:
    """Devices, chunks of the pipeline, and the model."""
    each = given.get("nproc_per_node") or given.get("nproc-per-node")
    if each:
        devices = parse_count(each, "nproc_per_node")
        devices *= parse_count(given.get("nnodes", "1"), "nnodes")
        said.put("--count", str(devices), "nnodes x nproc_per_node", str(devices))
    name = "num-layers-per-virtual-pipeline-stage"
    if chunk := given.get(name):
        layers = parse_count(given.get("num-layers", ""), "--num-layers")
        stages = int(said.parts.get("pp", "1")) * parse_count(chunk, f"--{name}")
        said.put("vpp", str(max(1, layers // stages)), name, chunk)
    sizes = {SIZES[name]: parse_count(given[name], f"--{name}") for name in SIZES if name in given}
    if not {"layers", "width", "heads"} <= set(sizes):
        return
    if "vocab" not in sizes:
        said.warn("--vocab-size", "not given", "the tokenizer decides it: 128,256 is reckoned with")
    said.shape = _shape(sizes, given, said.where)


def _shape(sizes: Mapping[str, int], given: Mapping[str, str], where: str) -> ModelShape:
    width, heads = sizes["width"], sizes["heads"]
    is_gated = "swiglu" in given
    grouped = "group-query-attention" in given
    ffn = sizes.get("ffn") or (4 * width if not is_gated else int(4 * width * 2 / 3) // 64 * 64)
    experts = None
    if "experts" in sizes:
        of_expert = sizes.get("expert_width", ffn)
        experts = Experts(sizes["experts"], sizes.get("active", 2), of_expert)
    return ModelShape(
        name=Path(where).stem,
        layers=sizes["layers"],
        width=width,
        ffn_width=ffn,
        vocab_size=sizes.get("vocab", 128_256),
        attention=AttentionShape(
            heads,
            sizes.get("kv_heads", 1) if grouped else heads,
            sizes.get("head_dim", width // heads),
        ),
        experts=experts,
        gated=is_gated,
        tied_embeddings="untie-embeddings-and-output-weights" not in given,
        norm="rms" if given.get("normalization", "").lower() == "rmsnorm" else "layer",
        max_seq_len=sizes.get("positions", 0),
    )
