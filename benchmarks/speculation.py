"""Does OpenVINO GenAI draw what the model says, with guesses as without?

    python benchmarks/speculation.py

A tiny model answers one prompt 4,000 times at temperature 1, each with its own seed: without
guesses, with guesses looked up in the prompt, and with those of a worse model as draft. Of the
third id of the answers, counts with and without are compared by chi-squared; answers one by one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_tokenizers import convert_tokenizer
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from whorl.codecs.contract import Tokens
from whorl.engines.openvino_export import export_openvino
from whorl.testing.models import tiny_model_folder

STEPS = {"main": 60, "draft": 25}  # of training
WAYS = ("without", "prompt lookup", "draft")
TOGETHER, ANSWER, GUESSES, PLACE, NEVER = 64, 6, 3, 2, 512
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "INFERENCE_NUM_THREADS": 1,
}
FEWEST = 10  # answers of an id, both ways together, for a cell of its own


def models(root: Path) -> Tokens:
    """main-ov/ and draft-ov/, with the tokenizers that a draft needs."""
    for name, steps in STEPS.items():
        tiny_model_folder(root / name, steps=steps)
        export_openvino(root / name, root / f"{name}-ov")
        converted = convert_tokenizer(
            AutoTokenizer.from_pretrained(root / name), with_detokenizer=True
        )
        for kind, model in zip(("tokenizer", "detokenizer"), converted, strict=True):
            openvino.save_model(model, root / f"{name}-ov/openvino_{kind}.xml")
    return Tokens.load(root / "main/tokens")


def answers(root: Path, ids: list[int], way: str, count: int) -> list[tuple[int, ...]]:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.num_kv_blocks = TOGETHER, 8 * TOGETHER
    extra: dict[str, Any] = {}
    if way == "prompt lookup":
        extra["prompt_lookup"] = True
    if way == "draft":
        extra["draft_model"] = openvino_genai.draft_model(str(root / "draft-ov"), "CPU", **SETTINGS)
    folder = str(root / "main-ov")
    tokenizer = openvino_genai.Tokenizer(folder)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        folder, tokenizer, scheduler, "CPU", **SETTINGS, **extra
    )
    found: list[list[int]] = []
    while len(found) < count:
        handles = []
        for seed in range(len(found), len(found) + TOGETHER):
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = ANSWER, True, True
            config.set_eos_token_id(NEVER)
            config.temperature, config.rng_seed = 1.0, seed
            if way != "without":
                config.num_assistant_tokens = GUESSES
            if way == "prompt lookup":
                config.max_ngram_size = 3
            tensor = openvino.Tensor(np.asarray([ids], np.int64))
            handles.append((pipeline.add_request(seed, tensor, config), list[int]()))
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle, answer in handles:
                while handle.can_read():
                    for output in handle.read().values():
                        answer += output.generated_ids
        found += [answer for _, answer in handles]
    return [tuple(answer) for answer in found]


def chi_squared(one: Counter[int], other: Counter[int]) -> tuple[float, int]:
    """(of two samples of one size, degrees of freedom); rare ids are one cell."""
    often = [key for key in one | other if one[key] + other[key] >= FEWEST]
    cells = [(one[key], other[key]) for key in often]
    cells.append((one.total() - sum(a for a, _ in cells), other.total() - sum(b for _, b in cells)))
    return sum((a - b) ** 2 / (a + b) for a, b in cells if a + b), len(often)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=4_000)
    count: int = parser.parse_args().answers
    table = Table("guesses", "same answers", "chi-squared", "degrees of freedom")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        ids = models(root).encode_prompt("the cat")
        said = {way: answers(root, ids, way, count) for way in WAYS}
    counts = {way: Counter(answer[PLACE] for answer in each) for way, each in said.items()}
    for way in WAYS[1:]:
        same = sum(a == b for a, b in zip(said["without"], said[way], strict=True))
        chi, freedom = chi_squared(counts["without"], counts[way])
        table.add_row(way, f"{same:,} of {len(said[way]):,}", f"{chi:,.0f}", str(freedom))
    Console().print(table)


if __name__ == "__main__":
    main()
