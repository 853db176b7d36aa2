"""A server with a fake engine, as a process of its own that takes orders on its standard input.

`python -m tests.torture.server FOLDER KEY '{"max_running": 8, …}'` prints its address, then a line
for each order: stall, resume, fail, swap N (to a version whose every answer is its number).
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.core.ports import GenerateRequest
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.served import Served
from whorl.stages.serve.server import serve
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine, repeat_prompt
from whorl.torture.target import Victim

__all__ = ["FakeServer", "fake_server"]

KEY = "whorl-torture-key-0123456789abcdef"
CONTEXT_TOKENS = 4096


# ------------------------------------------------------------------ the test's side


class FakeServer(Victim):
    """The process as a target that takes orders."""

    process: subprocess.Popen[str]

    def order(self, text: str) -> str:
        """What it answers when it is done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def fake_server(folder: Path, step_s: float = 0.002, **config: Any) -> Iterator[FakeServer]:
    """One that is started and, if it still runs, killed."""
    settings = json.dumps({"step_s": step_s, "max_tokens": 512, **config})
    command = [sys.executable, "-m", "tests.torture.server", str(folder), KEY, settings]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            target = FakeServer(process.stdout.readline().strip(), KEY, "tiny", pid=process.pid)
            object.__setattr__(target, "process", process)
            yield target
        finally:
            process.kill()


# ------------------------------------------------------------------ the process


def _numbered(tokens: Tokens, version: int) -> Any:
    """Answers that say which version gave them, over and over."""
    ids = tokens.encode_prompt(f"v{version} ")[len(tokens.contract.start_ids) :]

    def reply(request: GenerateRequest) -> Sequence[int]:
        if version == 1:
            return repeat_prompt(request)
        return [ids[number % len(ids)] for number in range(request.max_tokens)]

    return reply


def main(folder: str, key: str, settings: str) -> None:
    given = json.loads(settings)
    step_s = given.pop("step_s")
    config = ServeConfig(port=0, watch_s=0.02, **given)
    tokens = tiny_tokens()

    def opened(version: int) -> Served:
        digest, reply = tokens.contract.digest, _numbered(tokens, version)
        engine = FakeEngine(digest, reply, step_s=step_s, max_running=config.max_running)
        card = ModelCard(
            name="tiny", contract_digest=digest, context_tokens=CONTEXT_TOKENS, version=version
        )
        return Served(engine, tokens, card, engine.close)

    first, desk = opened(1), Desk.of(config, Path(folder))
    app = create_app(first.engine, first.tokens, first.card, config, key, desk)
    waiting: queue.SimpleQueue[Served] = queue.SimpleQueue()

    def next_model() -> Served | None:
        return None if waiting.empty() else waiting.get()

    def obey() -> None:
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            gateway = app.state.gateway
            engine, done = gateway.engine, "done"
            if word in ("stall", "resume"):
                engine.stalled = word == "stall"
                with engine._changed:
                    engine._changed.notify_all()
            elif word == "fail":
                engine.fail("it fell over")
            elif word == "swap":
                waiting.put(opened(int(value)))
                while gateway.card.version != int(value):
                    time.sleep(0.005)
            print(done, flush=True)

    threading.Thread(target=obey, daemon=True).start()
    serve(app, config, lambda base_url: print(base_url, flush=True), next_model=next_model)
    app.state.gateway.served.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
