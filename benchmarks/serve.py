"""A whorl server beside the engine it runs, and transformers: rates, latencies, memory, start.

    python benchmarks/serve.py MODEL_FOLDER [--rounds 3] [--users 1 4 16 64] [--json]
    python benchmarks/serve.py --random            # a model of 3 million parameters

Everybody gets the same prompts (ids of real text) and answers greedily. Closed loop: each user
sends its next request when the last is answered. Open loop: requests come by a Poisson process at
0.7 of the rate that the engine had with 16 users, whatever the server does. Systems take turns
within a round; medians of rounds. transformers gets requests that come together as one batch, the
best it can do; it has no first token before the last. Clients run on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
TEXTS = Path(__file__).resolve().parents[1].glob("docs/*.md")
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
OPEN_SHARE, OPEN_USERS = 0.7, 16


@dataclass
class Load:
    """users: in a closed loop, each `each` requests; or arrivals per second of `each` requests."""

    prompts: list[list[int]]
    tokens: int
    users: int
    each: int
    rate: float = 0.0  # open loop
    number: int = 0  # of the round: other prompts each time, so that no cache knows them

    def prompt(self, i: int) -> list[int]:
        return self.prompts[(self.number * 997 + i) % len(self.prompts)]

    @property
    def arrivals(self) -> list[float]:
        chooser = random.Random(self.number)
        gaps = [chooser.expovariate(self.rate) for _ in range(self.each)]
        return [sum(gaps[: i + 1]) for i in range(self.each)]


@dataclass
class Times:
    """Of one request; seconds since the load began."""

    begin_s: float
    tokens_s: list[float] = field(default_factory=list)


def figures(requests: Sequence[Times], wall_s: float) -> dict[str, float]:
    firsts = [r.tokens_s[0] - r.begin_s for r in requests]
    gaps = [
        (r.tokens_s[-1] - r.tokens_s[0]) / (len(r.tokens_s) - 1)
        for r in requests
        if len(r.tokens_s) > 1
    ] or [0.0]
    tokens = sum(len(r.tokens_s) for r in requests)
    found = {"tokens_per_s": tokens / wall_s, "tokens": float(tokens)}
    for name, values in (("ttft_ms", firsts), ("token_ms", gaps)):
        for percent in (50, 95, 99):
            found[f"{name}_p{percent}"] = 1000 * float(np.percentile(values, percent))
    return found


# ------------------------------------------------------------------ systems, each in a process


def engine_child(folder: str) -> Callable[[Load], dict[str, float]]:
    from whorl.codecs.contract import Tokens
    from whorl.core.ports import GenerateRequest, TokenEvent
    from whorl.engines.open import open_engine
    from whorl.engines.setup import EngineSetup

    engine = open_engine(Path(folder), setup=EngineSetup(16, shares_prefixes=True))
    stops = tuple(Tokens.load(Path(folder) / "tokens").contract.stop_ids)

    def run(load: Load) -> dict[str, float]:
        done, requests, begin = threading.Semaphore(0), [], time.perf_counter()

        def send(i: int, left: int) -> None:
            times = Times(time.perf_counter() - begin)
            requests.append(times)

            def on_event(event: TokenEvent) -> None:
                times.tokens_s += [time.perf_counter() - begin] * len(event.token_ids)
                if event.finish_reason is not None:
                    done.release()
                    if left > 1:
                        send(i + load.users, left - 1)

            ids = tuple(load.prompt(i))
            request = GenerateRequest(f"r{load.number}-{i}", ids, load.tokens, stop_ids=stops)
            engine.submit(request, on_event)

        if load.rate:
            for i, at in enumerate(load.arrivals):
                time.sleep(max(0.0, at - (time.perf_counter() - begin)))
                send(i, 1)
            total = load.each
        else:
            for user in range(load.users):
                send(user, load.each)
            total = load.users * load.each
        for _ in range(total):
            done.acquire()
        return figures(requests, time.perf_counter() - begin)

    return run


def transformers_child(folder: str) -> Callable[[Load], dict[str, float]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(load: Load) -> dict[str, float]:
        begin, requests = time.perf_counter(), []
        for turn in range(load.each):
            ids = torch.tensor([load.prompt(turn * load.users + i) for i in range(load.users)])
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sent = time.perf_counter() - begin
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=load.tokens,
                    min_new_tokens=load.tokens,
                )
            end = time.perf_counter() - begin
            requests += [Times(sent, [end] * load.tokens) for _ in range(load.users)]
        return figures(requests, time.perf_counter() - begin)

    return run


CHILDREN = {"engine": engine_child, "transformers": transformers_child}


def child(name: str, folder: str) -> None:
    """Answers loads on stdin, a line each, with figures on stdout."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = CHILDREN[name](folder)
    for line in sys.stdin:
        answers.write(json.dumps(run(Load(**json.loads(line)))) + "\n")


class Child:
    def __init__(self, name: str, folder: Path) -> None:
        self.name, begin = name, time.perf_counter()
        command = [sys.executable, __file__, "--child", name, str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.first_token_s = 0.0
        self._begin = begin

    def run(self, load: Load) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(vars(load)) + "\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        self.first_token_s = self.first_token_s or time.perf_counter() - self._begin
        return answer

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Server:
    """`whorl serve`, asked over HTTP."""

    name = "whorl serve"

    def __init__(self, folder: Path) -> None:
        self._begin, self.first_token_s = time.perf_counter(), 0.0
        command = [sys.executable, "-m", "whorl", "serve", str(folder), "--port", "0"]
        settings = [f"--set=serve.{name}" for name in ("max_running=16", "max_waiting=200")]
        self.process = subprocess.Popen(
            [*command, *settings, "--api-key", KEY],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("API:"):
                self.url = line.split()[1]
                break
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])
        headers = {"Authorization": f"Bearer {KEY}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/models", headers=headers)
        ) as a:
            model = json.load(a)["data"][0]
        self.model_id, self.promise = model["id"], model.get("promise")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def run(self, load: Load) -> dict[str, float]:
        return asyncio.run(self._run(load))

    async def _run(self, load: Load) -> dict[str, float]:
        begin, requests = time.perf_counter(), list[Times]()

        async def user(number: int) -> None:
            for turn in range(load.each):
                await self._send(load, turn * load.users + number, begin, requests)

        async def later(i: int, at: float) -> None:
            await asyncio.sleep(at)
            await self._send(load, i, begin, requests)

        if load.rate:
            await asyncio.gather(*(later(i, at) for i, at in enumerate(load.arrivals)))
        else:
            await asyncio.gather(*(user(number) for number in range(load.users)))
        return figures(requests, time.perf_counter() - begin)

    async def _send(self, load: Load, i: int, begin: float, requests: list[Times]) -> None:
        body = {"model": self.model_id, "prompt": load.prompt(i), "max_tokens": load.tokens}
        data = json.dumps(body | {"temperature": 0, "stream": True}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        times = Times(time.perf_counter() - begin)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode() + data)
        if b" 200 " not in (status := await reader.readline()):
            raise SystemExit(f"the server refused: {status!r} {await reader.read(2000)!r}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):  # an event a token
                times.tokens_s.append(time.perf_counter() - begin)
                self.first_token_s = self.first_token_s or time.perf_counter() - self._begin
        writer.close()
        requests.append(times)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


# ------------------------------------------------------------------ the comparison


def prompts_of(folder: Path, num_tokens: int) -> list[list[int]]:
    from whorl.codecs.contract import Tokens

    tokens = Tokens.load(folder / "tokens")
    text = "\n".join(path.read_text() for path in sorted(TEXTS))
    ids = tokens.encode_prompt(text)[1:]
    start = list(tokens.contract.start_ids)
    length = num_tokens - len(start)
    starts = range(0, len(ids) - length, length)
    return [start + ids[at : at + length] for at in starts]


def compare(folder: Path, hf: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    prompts = prompts_of(folder, arguments.prompt_tokens)
    systems: list[Any] = [Child("engine", folder)]
    if hf is not None:
        systems.append(Child("transformers", hf))
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    starts: dict[str, list[float]] = {}
    promise = None
    for turn in range(2):  # the second start knows what the first has found out
        server = Server(folder)
        server.run(Load(prompts, 2, 1, 1))
        starts.setdefault(server.name, []).append(server.first_token_s)
        if turn == 0:
            server.close()
    systems.insert(1, server)
    promise, rate = server.promise, 0.0
    for system in systems:
        system.run(Load(prompts, 4, 4, 1, number=10**6))
        if system is not server:
            starts[system.name] = [system.first_token_s]
    for turn in range(arguments.rounds):
        order = systems[turn % len(systems) :] + systems[: turn % len(systems)]
        for users in arguments.users:
            for system in order:
                if system.name == "transformers" and users > 16:
                    continue
                each = max(1, 16 // users) if users < 16 else 2 if users < 64 else 1
                each = min(each, 4) if system.name != "transformers" else 1
                load = Load(prompts, arguments.tokens, users, each, number=turn * 7 + users)
                found = measured(system, load)
                rows.setdefault((system.name, f"{users} users"), []).append(found)
                if system.name == "engine" and users == OPEN_USERS:
                    rate = OPEN_SHARE * found["tokens_per_s"] / arguments.tokens
        if rate:
            for system in order:
                if system.name != "transformers":
                    load = Load(prompts, arguments.tokens, 1, 24, rate, number=turn * 7 + 5)
                    rows.setdefault((system.name, "open loop"), []).append(measured(system, load))
    memory = {
        system.name: sum(
            peak_bytes(each.pid)
            for each in (own := psutil.Process(system.process.pid), *own.children(recursive=True))
        )
        for system in systems
    }
    for system in systems:
        system.close()
    medians = {
        f"{name}, {load}": {key: statistics.median(each[key] for each in found) for key in found[0]}
        for (name, load), found in rows.items()
    }
    ratios = {
        load: statistics.median(
            a["tokens_per_s"] / b["tokens_per_s"]
            for a, b in zip(rows[server.name, load], rows["engine", load], strict=True)
        )
        for name, load in rows
        if name == server.name
    }
    return {
        "model": str(folder),
        "cpus": os.cpu_count(),
        "prompt_tokens": arguments.prompt_tokens,
        "answer_tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "figures": medians,
        "server_of_engine": ratios,
        "first_token_after_start_s": starts,
        "peak_bytes": memory,
        "promise": promise,
    }


def measured(system: Any, load: Load) -> dict[str, float]:
    """Figures, told on stderr as they come, and the processor time of all its processes."""
    everyone = [psutil.Process(system.process.pid)]
    everyone += everyone[0].children(recursive=True)
    before = [sum(each.cpu_times()[:2]) for each in everyone]
    found: dict[str, float] = system.run(load)
    spent = [sum(each.cpu_times()[:2]) - was for each, was in zip(everyone, before, strict=True)]
    tokens = found.pop("tokens")
    found["cpu_ms_per_token"] = 1000 * sum(spent) / tokens
    found["first_process_cpu_ms_per_token"] = 1000 * spent[0] / tokens
    shown = {key: round(value, 2) for key, value in found.items()}
    print(system.name, load.users, load.rate, shown, file=sys.stderr, flush=True)
    return found


def peak_bytes(pid: int) -> int:
    """The most a process ever had in memory, where the system tells; else what it has now."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return int(psutil.Process(pid).memory_info().rss)


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']}: {result['prompt_tokens']} tokens in, {result['answer_tokens']} out, "
        f"{result['cpus']} CPUs, median of {result['rounds']} rounds"
    )
    print(f"{'':<28}{'tokens/s':>10}{'first token ms (50 95 99)':>30}{'a token ms (50 95 99)':>28}")
    for name, each in sorted(result["figures"].items(), key=lambda item: item[0].split(", ")[::-1]):
        first, token = (
            " ".join(f"{each[f'{key}_p{p}']:8.1f}" for p in (50, 95, 99))
            for key in ("ttft_ms", "token_ms")
        )
        print(f"{name:<28}{each['tokens_per_s']:>10.1f}{first:>30}{token:>28}")
    for load, ratio in result["server_of_engine"].items():
        print(f"the server's share of its engine's tokens/s, {load}: {ratio:.3f}")
    for name, seconds in result["first_token_after_start_s"].items():
        print(f"{name}: first token after {' then '.join(f'{s:.1f} s' for s in seconds)}")
    for name, each in result["figures"].items():
        own, total = each["first_process_cpu_ms_per_token"], each["cpu_ms_per_token"]
        print(f"{name}: {total:.2f} ms of processors a token, {own:.2f} of its first process")
    for name, size in result["peak_bytes"].items():
        print(f"{name}: {size / 2**20:,.0f} MiB at most")
    print(f"promise: {result['promise']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--hf", type=Path, help="the same model for transformers")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, hf = arguments.folder, arguments.hf
        if arguments.random:
            folder, hf = random_model(Path(temporary))
        if folder is None:
            parser.error("name a model folder, or --random")
        result = compare(folder, hf, arguments)
    print(json.dumps(result, indent=1)) if arguments.json else show(result)


def random_model(root: Path) -> tuple[Path, Path]:
    from whorl.engines.openvino_export import export_openvino
    from whorl.testing.models import tiny_model_folder

    hf = tiny_model_folder(root / "hf", steps=0, **RANDOM_MODEL)
    export_openvino(hf, root / "openvino")
    return root / "openvino", hf


if __name__ == "__main__":
    main()
