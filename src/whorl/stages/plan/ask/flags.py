"""The flags of `whorl plan` beside the recipe's, once: the command and whorl.plan() read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FLAGS", "OF_TRAINING", "Flag", "take_words"]


@dataclass(frozen=True)
class Flag:
    name: str  # as Python takes it
    help: str
    metavar: str = "TEXT"
    kind: type = str  # or bool (a switch), Path

    @property
    def flag(self) -> str:
        """As the command line takes it."""
        return "--from" if self.name == "from_file" else f"--{self.name.replace('_', '-')}"


BUDGET = "What to spend: usd=100k, time=30days, device_hours=50k or flops=1e24; without --model it "
MEASURED = (
    "One timed step, from which all is re-predicted: tp=4,pp=4,mbs=1,tokens_per_s=1638 (per "
    "device), or step_s=…; count=… if on other devices."
)
FLAGS = (
    Flag("model", "A known model's name, or the path of a config.json."),
    Flag(
        "from_file",
        "What another tool was told: axolotl.yaml, llamafactory.yaml, trainer-args.json, "
        "deepspeed.json, torchtitan.toml or a Megatron script (read, never run).",
        "FILE",
        Path,
    ),
    Flag("device", "What to plan for, such as h100-sxm."),
    Flag("count", "How many devices.", "N"),
    Flag("seq", "Tokens of one sequence; of lengths k is 1024 and M 2**20: 8k are 8192.", "N"),
    Flag(
        "global_batch_tokens",
        "Tokens of one optimiser step; 16M are 16,777,216, of 8192 each 2,048 sequences.",
        "N",
    ),
    Flag("precision", "bf16 (default), fp8, fp8_block, mxfp8, …; bf16-true: states in 2 bytes too"),
    Flag("optimizer", "adamw (default), adamw_8bit, paged_adamw_8bit, adafactor, lion, muon, …"),
    Flag("stack", "What trains: megatron (default), fsdp, xla (of TPUs), whorl (of CPUs), hf, …"),
    Flag("tune", "Fine-tuning: full, lora, qlora or dora. Default: pretraining."),
    Flag("rank", "Of the adapters of --tune lora, qlora, dora. Default: 8.", "N"),
    Flag("targets", "What they adapt: all (default), attention, qv, or names of matrices."),
    Flag("base_format", "Of a frozen base: bf16, nf4 (default of qlora), fp4, int8, gptq, awq."),
    Flag(
        "objective",
        "What is learned, if not next tokens: dpo,reference=model|adapters|stored; "
        "grpo,generations=8,completion=512,rollout=colocated; distil,teacher=qwen3-32b; "
        "embedding.",
    ),
    Flag(
        "images",
        "Images of a sequence, of a model that sees: 2, or 2@1280 (pixels of a side).",
        "N",
    ),
    Flag("loss", "eager (whole logits in fp32), fused or chunked. Default: what the stack does."),
    Flag("step_in_backward", "The optimiser uses each gradient as it is made.", kind=bool),
    Flag("document_tokens", "Mean tokens of packed documents that do not see each other.", "N"),
    Flag("attention", "flash (default) or eager, which stores the scores."),
    Flag(
        "tokens", "To train on: 15T are 15e12, k is 1000. Default: the scaling law's choice.", "N"
    ),
    Flag("budget", f"{BUDGET}chooses the size.", "KIND=X"),
    Flag(
        "vocab",
        "Vocabulary of the model that a budget chooses; 128k are 131,072. Default: 128,256.",
        "N",
    ),
    Flag("unique_tokens", "Tokens there are: training on more repeats them.", "N"),
    Flag(
        "served_tokens",
        "Tokens read and written over its life: the size that is cheapest to train and serve.",
        "N",
    ),
    Flag("usd_per_device_hour", "Price. Default: the catalogue's.", "X"),
    Flag("layout", "Predict this layout instead of searching: tp=8,pp=16,mbs=1,recompute=full."),
    Flag("measured", MEASURED),
    Flag(
        "tables",
        "Time products by the measured kernels of whorl[tables], where the device has them.",
        kind=bool,
    ),
    Flag(
        "serve",
        "Plan serving, alone if nothing is said of training: users=100 (or rate=5, requests a "
        "second),ttft=1s,tokens_per_s=20,input=1024,output=256,engine=vllm,tp=2,format=fp8.",
    ),
    Flag(
        "why_oom",
        "What the memory is made of, and what would make it less, on the same devices.",
        kind=bool,
    ),
    Flag("html", "Write the plan as one page with plots.", "FILE", Path),
    Flag("emit", "Write what runs the choice.", "FOLDER", Path),
)
# Any of them says that training is planned.
OF_TRAINING = frozenset(
    {
        "--seq",
        "--global-batch-tokens",
        "--tune",
        "--objective",
        "--tokens",
        "--budget",
        "--layout",
        "--measured",
    }
)


def take_words(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(what is left, {"optim": "adafactor"}): options that are not the command's own are words of
    other tools, --optim adafactor, --optim=adafactor or, of a switch, --gradient_checkpointing.
    """
    rest: list[str] = []
    words: dict[str, str] = {}
    place = 0
    while place < len(arguments):
        name, equals, value = arguments[place].partition("=")
        place += 1
        if name == "--":
            rest += arguments[place - 1 :]
            break
        if not name.startswith("--") or name in own:
            rest.append(arguments[place - 1])
            continue
        if not equals:
            value = "true"
            if place < len(arguments) and not arguments[place].startswith("--"):
                value = arguments[place]
                place += 1
        words[name[2:].replace("-", "_")] = value
    return rest, words
