"""Generated tokens per second of whorl's OpenVINO engine beside transformers' generate.

    python benchmarks/serve_vs_transformers.py [MODEL_FOLDER] [--rounds 5]

MODEL_FOLDER is any folder that `whorl train` wrote (runs/<recipe>/train/<digest>/model); without
it a random model of 3 million parameters is made. Both compute greedily in float32 from the same
weights, the same prompts, the same number of tokens; transformers gets requests that come together
as one batch, which is the best it can do. Systems take turns within every round; medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from whorl.core.ports import Engine, GenerateRequest
from whorl.core.variants import Variant
from whorl.engines.collect import run_requests
from whorl.engines.open import open_engine
from whorl.model.folder import read_card
from whorl.testing.models import tiny_model_folder

Prompts = list[tuple[int, ...]]
System = Callable[[Prompts, int], list[list[int]]]  # prompts, new tokens -> answers
CONCURRENCY = (1, 16)
RANDOM_MODEL = {
    "layers": 4,
    "width": 192,
    "heads": 6,
    "kv_heads": 3,
    "head_dim": 32,
    "ffn_width": 512,
    "vocab_size": 4096,
    "max_seq_len": 512,
}


def transformers_system(folder: Path) -> System:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(prompts: Prompts, num_tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                eos_token_id=None,
            )
        found: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return found

    return answer


def engine_system(engine: Engine) -> System:
    def answer(prompts: Prompts, num_tokens: int) -> list[list[int]]:
        requests = [GenerateRequest(str(i), ids, num_tokens) for i, ids in enumerate(prompts)]
        return [reply.token_ids for reply in run_requests(engine, requests)]

    return answer


def measure(
    systems: dict[str, System], prompts: Prompts, num_tokens: int, rounds: int
) -> dict[tuple[str, int], list[float]]:
    """(system, concurrency) -> tokens/s of each round; one warm-up round is not counted."""
    rates: dict[tuple[str, int], list[float]] = {}
    names = list(systems)
    for turn in range(rounds + 1):
        for together in CONCURRENCY:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                begin = time.perf_counter()
                answers = systems[name](prompts[:together], num_tokens)
                seconds = time.perf_counter() - begin
                if any(len(ids) != num_tokens for ids in answers):
                    raise SystemExit(f"{name} gave answers of other lengths")
                if turn:
                    rates.setdefault((name, together), []).append(together * num_tokens / seconds)
    return rates


def print_table(rates: dict[tuple[str, int], list[float]], names: Sequence[str]) -> None:
    base = names[0]
    print(f"{'system':<24}" + "".join(f"{f'{n} together':>26}{'ratio':>8}" for n in CONCURRENCY))
    for name in names:
        line = f"{name:<24}"
        for together in CONCURRENCY:
            values = rates[name, together]
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(values, rates[base, together], strict=True)
            )
            spread = f"{statistics.median(values):,.0f} [{min(values):,.0f} {max(values):,.0f}]"
            line += f"{spread:>26}{ratio:>7.2f}x"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model_folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model_folder
        if folder is None:
            folder = tiny_model_folder(Path(temporary) / "model", steps=0, **RANDOM_MODEL)
        compare(folder, Path(temporary) / "exports", arguments)


def compare(folder: Path, exports: Path, arguments: argparse.Namespace) -> None:
    shape = read_card(folder).shape
    num_tokens = min(arguments.new_tokens, shape.max_seq_len // 2)
    prompt_tokens = min(arguments.prompt_tokens, shape.max_seq_len - num_tokens)
    generator = np.random.default_rng(0)
    ids = generator.integers(16, shape.vocab_size, (max(CONCURRENCY), prompt_tokens))
    prompts = [tuple(row) for row in ids.tolist()]
    begin = time.perf_counter()
    engines = {
        name: open_engine(folder, Variant("openvino", name), cache_folder=exports)
        for name in ("f32", "int8")
    }
    opened_s = time.perf_counter() - begin
    systems = {"transformers float32": transformers_system(folder)}
    systems |= {f"whorl openvino {name}": engine_system(e) for name, e in engines.items()}
    theirs, ours = (system(prompts, num_tokens) for system in list(systems.values())[:2])
    equal = sum(a == b for a, b in zip(theirs, ours, strict=True))
    rates = measure(systems, prompts, num_tokens, arguments.rounds)
    for engine in engines.values():
        engine.close()
    print(f"{folder.name}: {shape.layers} layers of {shape.width}, vocabulary ", end="")
    print(f"{shape.vocab_size:,}; {os.cpu_count()} CPUs; exported and opened in ", end="")
    print(f"{opened_s:.1f} s; {equal} of {len(prompts)} greedy answers equal (f32)")
    print(f"generated tokens/s, {prompt_tokens} tokens in, {num_tokens} out, median ", end="")
    print(f"[min max] of {arguments.rounds} rounds; ratio to the first line, by round")
    print_table(rates, list(systems))


if __name__ == "__main__":
    main()
