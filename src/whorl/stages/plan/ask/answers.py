"""Changes that would make a job fit, in the words they were asked in."""

from __future__ import annotations

from dataclasses import replace

from whorl.stages.plan.ask.layouts import layout_label
from whorl.stages.plan.cluster.remedies import Remedy, Say
from whorl.stages.plan.facts import data_file

__all__ = ["in_words"]

BUILT_ON_TRAINER = ("axolotl", "llamafactory")


def _words(tool: str) -> dict[str, str]:
    """Change -> how a tool says it."""
    known = data_file("ask/answers.json")
    return {**(known["trainer"] if tool in BUILT_ON_TRAINER else {}), **known.get(tool, {})}


def _software(remedy: Remedy, tool: str) -> list[str]:
    """The software, where the change is one of another than flags or the tool's file mean."""
    names, stack = set(remedy.names), remedy.job.stack
    tunes = names & {"lora", "qlora"} and stack == "hf" and tool == "megatron"
    shards = names & {"shard", "offload"} and stack == "deepspeed" and not tool
    return [f"--stack {stack}"] if tunes or shards else []


def _plain(remedy: Remedy, tool: str, whole: bool) -> str:
    """A remedy as flags of `whorl plan`: the parts of --layout that change, or the whole."""
    job, layout = remedy.job, remedy.job.layout
    selected = "recompute=selective"
    if layout.recompute_parts:
        selected = f"recompute_parts={'+'.join(layout.recompute_parts)}"
    words = {
        "loss": "--loss chunked",
        "optimizer": f"--optimizer {job.optimizer}",
        "paged": f"--optimizer {job.optimizer}",
        "step_in_backward": "--step-in-backward",
        "precision": f"--precision {job.precision}-true",
        "seq": f"--seq {job.seq_len}",
        "lora": "--tune lora",
        "qlora": "--tune qlora",
    }
    parts = {
        "recompute_selective": selected,
        "micro_batch": f"mbs={layout.micro_batch}",
        "shard": f"shard={layout.shard}",
        "recompute": "recompute=full",
        "offload": "offload_optimizer=1",
    }
    said = [words[name] for name in remedy.names if name in words] + _software(remedy, tool)
    if "qlora" in remedy.names and job.task == "lora":
        said = [word for word in said if word != "--tune lora"]
    changed = [parts[name] for name in remedy.names if name in parts]
    if "offload" in remedy.names and job.stack == "deepspeed" and layout.shard != "none":
        changed.append(parts["shard"])
    changed = list(dict.fromkeys(changed))
    if "recompute" in remedy.names:
        changed = [part for part in changed if part != selected]
    if changed:
        said.append("--layout " + (layout_label(layout) if whole else ",".join(changed)))
    return " ".join(dict.fromkeys(said))


def in_words(tool: str, whole: bool = False) -> Say:
    """How a remedy is said in the words of a tool; where it has none, or "": whorl's flags.

    whole: a layout is said with all its parts, as nothing of it was given.
    """
    words = _words(tool)

    def say(remedy: Remedy) -> str:
        shard = remedy.job.layout.shard
        terms = {
            "seq": str(remedy.job.seq_len),
            "stage": "2" if shard == "none" else shard.removeprefix("zero"),
        }
        exact = {name: f"{name}_{shard}" for name in remedy.names if f"{name}_{shard}" in words}
        said = [
            words[exact.get(name, name)].format(**terms) for name in remedy.names if name in words
        ]
        others = tuple(name for name in remedy.names if name not in words)
        if others:
            said.append(_plain(replace(remedy, names=others), tool, whole))
        return ", ".join(dict.fromkeys(said))

    return say
