"""How fast a variant starts and answers, and what memory it takes: in a process of its own.

So the figures are those of a server that holds this model alone, whatever was done here before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from whorl.core.children import start_child
from whorl.core.errors import EngineError
from whorl.core.memory import peak_resident_bytes
from whorl.core.rounding import Speeds, Texts
from whorl.core.variants import Variant
from whorl.launch.machine import machine_facts

__all__ = ["TOGETHER", "ask_child", "measure_speed"]

TOGETHER = (1, 16)  # requests
PROMPT_TOKENS, ANSWER_TOKENS = 32, 48
TIMEOUT_S = 600.0
REPEATS = 2  # of which the faster counts: another program may have had the processor


def measure_speed(folder: Path, variant: Variant, texts: Texts, engine: str = "auto") -> Speeds:
    """texts: ids, whose beginnings are the prompts. Raises EngineError if the process failed."""
    prompts = [list(map(int, ids[:PROMPT_TOKENS])) for ids in texts[: max(TOGETHER)]] or [[0]]
    found = ask_child(f"{__name__}:answer", folder, variant, {"engine": engine, "prompts": prompts})
    rates = {int(number): float(rate) for number, rate in found.pop("tokens_per_s").items()}
    return Speeds(tokens_per_s=rates, **found)


def ask_child(
    entry: str,
    folder: Path,
    variant: Variant,
    question: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """What a function says of a variant in a process of its own; see `children`.

    It reads the question and prints JSON. Raises EngineError if the process failed.
    """
    asked = {"folder": str(folder), "variant": asdict(variant), **question}
    child = start_child(entry, stderr=subprocess.PIPE)
    try:
        out, err = child.communicate(json.dumps(asked), timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{variant} did not answer in {timeout_s:.0f} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise EngineError(
            f"{variant} could not be timed in a process of its own",
            found=f"exit code {child.returncode}: {err.strip()[-500:]}",
        )
    return json.loads(out.splitlines()[-1])


def _answer(question: dict[str, Any]) -> Speeds:
    from whorl.core.collect import run_requests
    from whorl.core.ports import GenerateRequest
    from whorl.engines.open import open_engine
    from whorl.engines.setup import EngineSetup

    variant = Variant(**question["variant"])
    setup = EngineSetup(max_running=max(TOGETHER))
    engine = open_engine(Path(question["folder"]), variant, question["engine"], setup)
    start_s = time.time() - psutil.Process().create_time()
    prompts = question["prompts"]

    def rate(together: int, tokens: int) -> float:
        asked = [tuple(prompts[number % len(prompts)]) for number in range(together)]
        requests = [GenerateRequest(f"speed-{n}", ids, tokens) for n, ids in enumerate(asked)]
        begin_s = time.perf_counter()
        answers = run_requests(engine, requests, TIMEOUT_S)
        took_s = time.perf_counter() - begin_s
        return sum(len(answer.token_ids) for answer in answers) / took_s

    try:
        rate(1, 4)  # what is made at the first request
        rates = {n: max(rate(n, ANSWER_TOKENS) for _ in range(REPEATS)) for n in TOGETHER}
    finally:
        engine.close()
    return Speeds(start_s, peak_resident_bytes(), rates, machine_facts().identity)


def answer() -> None:
    """The child's side: a question on its input, the figures on its output."""
    print(json.dumps(asdict(_answer(json.load(sys.stdin)))))
