"""Processor time that a server takes beside its engine: of a request, and of a streamed event.

    python benchmarks/gateway.py [--users 16] [--requests 12] [--step-ms 12]

The engine is a double in a process of its own, as a real one: it makes a token for each request
every step and computes nothing. A step is longer than the time in which tokens travel together, so
each token is an event. Answers of 2 and of 66 tokens tell a request's cost from an event's. The
time is that of processors, by process, which hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from serve_systems import KEY

SHORT, LONG, PROMPT_TOKENS = 2, 66, 64


class Double:
    """A stepper without a model: one more token for each request every step."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._left = step_s, dict[str, int]()

    def add(self, request):
        self._left[request.request_id] = request.max_tokens
        return True

    def cancel(self, request_id: str) -> None:
        self._left.pop(request_id, None)

    def step(self):
        from whorl.core.ports import TokenEvent

        time.sleep(self._step_s)
        self._left = {name: left - 1 for name, left in self._left.items()}
        events = [
            TokenEvent(name, (100,), None if left else "length")
            for name, left in self._left.items()
        ]
        self._left = {name: left for name, left in self._left.items() if left}
        return events

    def close(self) -> None: ...


def engine() -> None:
    """The engine's process: `answer`, which opens the double whatever folder it is told."""
    from whorl.engines import answering
    from whorl.engines.limits import Limits
    from whorl.engines.loop import EngineLoop

    def open_double(folder: Path, variant, name: str, setup, cache) -> EngineLoop:
        limits = Limits(setup.max_running, 512, 512)
        return EngineLoop("double", name, Double(float(os.environ["STEP_S"])), limits)

    answering.open_engine = open_double
    answering.answer()


def server() -> None:
    from whorl.core.children import start_child
    from whorl.engines.apart import EngineProcess
    from whorl.engines.setup import EngineSetup
    from whorl.spec.resolved import ServeConfig
    from whorl.stages.serve.app import create_app
    from whorl.stages.serve.card import ModelCard
    from whorl.stages.serve.server import serve
    from whorl.testing.corpus import tiny_tokens

    tokens = tiny_tokens()
    digest = tokens.contract.digest
    config = ServeConfig(port=0, max_running=16, max_waiting=200)
    double = EngineProcess(
        Path(), None, digest, EngineSetup(16), start=lambda: start_child("gateway:engine")
    )
    card = ModelCard(name="double", contract_digest=digest, context_tokens=512)
    app = create_app(double, tokens, card, config, KEY)
    print(double.pid, flush=True)
    serve(app, config, on_start=lambda url: print(url, flush=True))
    double.close()


async def ask(port: int, number: int, tokens: int) -> int:
    """The events of an answer."""
    prompt = [100 + (number + i) % 200 for i in range(PROMPT_TOKENS)]
    body = {"model": "double", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    data = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + data)
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in answer:
        raise SystemExit(f"refused: {answer[:2000]!r}")
    return answer.count(b'"text_completion"') - 1


async def load(port: int, users: int, each: int, tokens: int) -> int:
    async def user(number: int) -> int:
        return sum([await ask(port, number * 997 + turn, tokens) for turn in range(each)])

    return sum(await asyncio.gather(*(user(number) for number in range(users))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--requests", type=int, default=12, help="of each user")
    parser.add_argument("--step-ms", type=float, default=12)
    arguments = parser.parse_args()
    command = [sys.executable, "-c", "import gateway; gateway.server()"]
    path = os.pathsep.join(each or "." for each in sys.path)
    environment = os.environ | {"STEP_S": str(arguments.step_ms / 1000), "PYTHONPATH": path}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        names = {"server": process.pid, "engine": int(process.stdout.readline())}
        port = int(process.stdout.readline().rpartition(":")[2])
        processes = {name: psutil.Process(pid) for name, pid in names.items()}
        asyncio.run(load(port, arguments.users, 2, SHORT))
        spent, counts = {}, {}
        for tokens in (SHORT, LONG):
            before = {name: sum(each.cpu_times()[:2]) for name, each in processes.items()}
            counts[tokens] = asyncio.run(load(port, arguments.users, arguments.requests, tokens))
            for name, each in processes.items():
                spent[name, tokens] = sum(each.cpu_times()[:2]) - before[name]
    finally:
        process.terminate()
        process.wait(30)
    requests = arguments.users * arguments.requests
    more = counts[LONG] - counts[SHORT]
    print(f"{requests} answers of {SHORT} and of {LONG} tokens: {counts} events")
    for name in names:
        event_us = 1e6 * (spent[name, LONG] - spent[name, SHORT]) / more
        request_us = 1e6 * spent[name, SHORT] / requests - event_us * counts[SHORT] / requests
        print(f"{name}: {request_us:,.0f} us a request, {event_us:,.0f} us an event")


if __name__ == "__main__":
    main()
