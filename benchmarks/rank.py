"""How long it takes to rank all of a model's candidates: through its engine, and by /v1/rank.

    python benchmarks/rank.py ml-100k --codec item
    python benchmarks/rank.py ml-100k --codec item --prompt 50 --requests 200 --json

The model is one of `whorl models` or a folder. Every question is a new prompt of that many values
of the codec, drawn by chance, so that nothing is remembered of the one before; questions come one
after another. Times are wall-clock milliseconds of this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from whorl.codecs.parts import token_space
from whorl.core.home import home_folder
from whorl.servable import find_model
from whorl.serving import open_model_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.server import running_server

WARM_UP = 10
API_KEY = "benchmark-key-of-this-process"


def times_ms(ask: Callable[[int], object], count: int) -> dict[str, float]:
    """Of `count` questions by their number, after some that are not counted."""
    for number in range(WARM_UP):
        ask(number)
    found = []
    for number in range(WARM_UP, WARM_UP + count):
        start = time.perf_counter()
        ask(number)
        found.append(1000 * (time.perf_counter() - start))
    median, p95 = np.percentile(found, [50, 95])
    return {"median_ms": round(float(median), 2), "p95_ms": round(float(p95), 2)}


def measured(model: str, codec: str, prompt_values: int, count: int) -> dict[str, Any]:
    """The figures of one model."""
    config, home = ServeConfig(port=0), home_folder()
    found = find_model(model, ServeConfig(), home)
    app, close = open_model_app(found, config, API_KEY, home=home, is_open=False)
    try:
        served = app.state.gateway.served
        ids = token_space(served.tokens).ranges[codec]
        rng = np.random.default_rng(0)
        drawn = rng.integers(ids.start, ids.stop, (count + WARM_UP, prompt_values)).tolist()
        start_ids = list(served.tokens.contract.start_ids)
        candidates = [(number,) for number in ids]
        engine = times_ms(
            lambda number: served.engine.score(candidates, start_ids + drawn[number]), count
        )
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with (
            running_server(app, config) as url,
            httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client,
        ):

            def ask(number: int) -> None:
                body = {"model": served.card.name, "codec": codec, "top": 10}
                body["prompt"] = start_ids + drawn[number]
                client.post("/v1/rank", json=body).raise_for_status()

            route = times_ms(ask, count)
        return {
            "model": served.card.name,
            "variant": served.card.variant,
            "candidates": len(ids),
            "prompt_ids": len(start_ids) + prompt_values,
            "engine": engine,
            "route": route,
        }
    finally:
        close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a name of `whorl models`, or a folder")
    parser.add_argument("--codec", required=True, help="whose values are ranked")
    parser.add_argument("--prompt", type=int, default=50, help="values in each prompt")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measured(chosen.model, chosen.codec, chosen.prompt, chosen.requests)
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"{found['model']} ({found['variant']}): {found['candidates']:,} candidates after "
        f"{found['prompt_ids']} ids, {chosen.requests} questions one by one"
    )
    for name in ("engine", "route"):
        print(f"{name:8} median {found[name]['median_ms']} ms, p95 {found[name]['p95_ms']} ms")


if __name__ == "__main__":
    main()
