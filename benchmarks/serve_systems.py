"""What benchmarks/serve.py compares: each system in a process of its own, asked the same."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Prompt = Callable[[list[int]], Any]
START_S = 900.0
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"


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
    tokens_s: list[float] = field(default_factory=list)  # when something of it came
    told: int = 0  # tokens by the server's own count: not each of them is an event

    @property
    def count(self) -> int:
        return self.told or len(self.tokens_s)


def figures(requests: Sequence[Times], wall_s: float) -> dict[str, float]:
    firsts = [r.tokens_s[0] - r.begin_s for r in requests]
    gaps = [(r.tokens_s[-1] - r.tokens_s[0]) / max(1, r.count - 1) for r in requests]
    tokens = sum(r.count for r in requests)
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

        def send(i: int, left: int, at: float | None = None) -> None:
            times = Times(time.perf_counter() - begin if at is None else at)
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
                send(i, 1, at)  # a step of the engine may have kept this thread
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
        command = [sys.executable, __file__, name, str(folder)]
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


class HttpServer:
    """A server that is asked at /v1/completions, in streams."""

    def __init__(
        self, name: str, command: list[str], port: int, prompt: Prompt = list, model_id: str = ""
    ) -> None:
        """port: that it is told to listen at. prompt: ids as the server takes them."""
        self.name, self.model_id, self._prompt, self.port = name, model_id, prompt, port
        self._begin, self.first_token_s = time.perf_counter(), 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=os.environ | QUIET
        )
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            raise

    def _wait(self) -> None:
        """Until it takes requests, whatever it says to one. Raises SystemExit if it never does."""
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        while self.process.poll() is None and time.perf_counter() - self._begin < START_S:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        self._log.seek(0)
        raise SystemExit(f"{self.name} did not start: {self._log.read()[-2000:].decode()}")

    def _models(self) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/models", headers=headers)
        with urllib.request.urlopen(request) as answer:
            models: list[dict[str, Any]] = json.load(answer)["data"]
            return models

    def run(self, load: Load) -> dict[str, float]:
        return asyncio.run(self._run(load))

    async def _run(self, load: Load) -> dict[str, float]:
        begin, requests = time.perf_counter(), list[Times]()

        async def user(number: int) -> None:
            for turn in range(load.each):
                await self._send(load, turn * load.users + number, begin, requests)

        async def later(i: int, at: float) -> None:
            await asyncio.sleep(at)
            await self._send(load, i, begin, requests, at)

        if load.rate:
            await asyncio.gather(*(later(i, at) for i, at in enumerate(load.arrivals)))
        else:
            await asyncio.gather(*(user(number) for number in range(load.users)))
        return figures(requests, time.perf_counter() - begin)

    async def _send(
        self,
        load: Load,
        i: int,
        begin: float,
        requests: list[Times],
        at: float | None = None,
    ) -> None:
        body = {
            "model": self.model_id,
            "prompt": self._prompt(load.prompt(i)),
            "max_tokens": load.tokens,
        }
        body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        times = Times(time.perf_counter() - begin if at is None else at)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode() + data)
        if b" 200 " not in (status := await reader.readline()):
            raise SystemExit(f"{self.name} refused: {status!r} {await reader.read(2000)!r}")
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                times.told = chunk["usage"]["completion_tokens"]
            elif chunk.get("choices"):  # its text may wait for the rest of a character
                times.tokens_s.append(time.perf_counter() - begin)
                self.first_token_s = self.first_token_s or time.perf_counter() - self._begin
        writer.close()
        times.tokens_s = times.tokens_s or [time.perf_counter() - begin]  # it said nothing
        requests.append(times)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Server(HttpServer):
    """`whorl serve`, which says where it listens and what it promises."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "whorl", "serve", str(folder), "--port", "0"]
        command += [f"--set=serve.{name}" for name in ("max_running=16", "max_waiting=200")]
        super().__init__("whorl serve", [*command, "--api-key", KEY], 0)

    def _wait(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("API:"):
                self.port = int(line.split()[1].rpartition(":")[2].partition("/")[0])
                break
        model = self._models()[0]
        self.model_id, self.promise = model["id"], model.get("promise")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()


def peers(
    folder: Path, hf: Path | None, gguf: Path | None, vllm: str | None
) -> list[Callable[[], HttpServer]]:
    """What starts the servers of others that are there; of the same model, told by their names.

    Those that take no ids are given the text of them.
    """
    from whorl.codecs.contract import Tokens

    tokens = Tokens.load(folder / "tokens")
    text: Prompt = lambda ids: tokens.decode(ids)  # noqa: E731
    found: list[Callable[[], HttpServer]] = []

    def add(name: str, prompt: Prompt, *words: object) -> None:
        port = free_port()
        command = [str(word).replace("{port}", str(port)) for word in words]
        found.append(lambda: HttpServer(name, command, port, prompt, str(hf or gguf)))

    address = ("--host", "127.0.0.1", "--port", "{port}")
    python = sys.executable
    if hf is not None:
        serve = (python, "-m", "transformers.cli.transformers", "serve", hf, "--dtype", "float32")
        add("transformers serve", text, *serve, *address)
    if gguf is not None:
        serve = (python, "-m", "llama_cpp.server", "--model", gguf, "--n_ctx", 4096)
        serve += ("--interrupt_requests", "false", "--api_key", KEY)
        add("llama-cpp-python", text, *serve, *address)
    if vllm is not None and hf is not None:
        serve = (vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", hf)
        serve += ("--dtype", "float32", "--max-num-seqs", 16, "--generation-config", "vllm")
        longest = json.loads((hf / "config.json").read_text())["max_position_embeddings"]
        serve += ("--max-model-len", min(2048, longest), "--api-key", KEY, "--disable-log-stats")
        serve += ("--served-model-name", hf)
        add("vLLM", list, *serve, *address)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    child(*sys.argv[1:3])
