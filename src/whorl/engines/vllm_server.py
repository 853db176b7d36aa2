"""vLLM's own server as a child, on a free port of the loopback, with a key that nobody else has.

It may live in an environment of its own: WHORL_VLLM_PYTHON names that one's interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import h11

from whorl.core import children
from whorl.core.errors import EngineError, MissingExtra, SpecError
from whorl.engines.setup import VLLM_ARGUMENTS, VLLM_PYTHON, EngineSetup
from whorl.model.folder import FolderCard

__all__ = ["BAD_REQUESTS", "RefusedError", "VllmServer"]

START_S, STOP_S = 900.0, 20.0  # it may compile kernels
LOOK_EVERY_S = 0.2
MOST_BYTES = 2**24  # of what it says, that are looked at for why it ended
ERROR = re.compile(r"\w(?:Error|Exception): ")
BAD_REQUESTS = (400, 422)  # statuses of what the asker got wrong
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# Its interpreter need not have whorl: the one file that ends it with its parent is read by name.
BOOT = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("whorl_children", sys.argv[1])
children = importlib.util.module_from_spec(spec)
spec.loader.exec_module(children)
children.end_with_parent(int(sys.argv[2]))
sys.argv[:] = sys.argv[:1] + sys.argv[3:]
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""


class RefusedError(EngineError):
    """vLLM's answer other than 200, with its status."""

    def __init__(self, what: str, found: object, status: object) -> None:
        super().__init__(what, found=found)
        self.status = status


class VllmServer:
    """vLLM's server, started. Raises EngineError with its last words if it does not come up."""

    def __init__(self, folder: Path, card: FolderCard, setup: EngineSetup) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._key = secrets.token_urlsafe(32)
        self._model = f"model-{secrets.token_hex(8)}"  # no other server has one of this name
        self._closing = False
        words = [_interpreter(), "-c", BOOT, children.__file__, str(os.getpid())]
        words += ["--model", str(folder), "--port", str(self.port)]
        words += ["--served-model-name", self._model, *_arguments(card, setup)]
        log = tempfile.NamedTemporaryFile(prefix="whorl-vllm-", suffix=".log", delete=False)  # noqa: SIM115
        self._log = Path(log.name)
        with log, children.spawning():
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(self._key, card, setup),
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    @property
    def failure(self) -> str | None:
        """Why it does not run any more; None: it does, or was told to stop."""
        code = None if self._closing else self._process.poll()
        return None if code is None else f"vLLM ended (code {code}): {self._last_words()}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Stop it, and what it started; harmless when repeated. Its log stays if it failed."""
        is_well = self.failure is None
        self._closing = True
        for number, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
        if is_well:
            self._log.unlink(missing_ok=True)

    async def ask(self, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """POST /v1/completions: pieces of what is answered.

        Raises RefusedError with vLLM's own words where it refuses, EngineError if it ends in the
        middle.
        """
        data = json.dumps({"model": self._model, **body}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            connection = h11.Connection(h11.CLIENT)
            writer.write(_head(connection, self._key, data))
            writer.write(connection.send(h11.Data(data=data)) or b"")
            connection.send(h11.EndOfMessage())
            status, refused = 200, list[bytes]()
            async for event in _events(connection, reader):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data) and status == 200:
                    yield bytes(event.data)
                elif isinstance(event, h11.Data):
                    refused.append(bytes(event.data))
            if status != 200:
                raise RefusedError("vLLM refuses the request", _words(b"".join(refused)), status)
        except h11.RemoteProtocolError as error:
            raise EngineError("vLLM ended in the middle of an answer", found=error) from error
        finally:
            writer.close()

    # -------------------------------------------------------------- its life

    def _last_words(self) -> str:
        """Its first error and its last, and where the rest of what it said lies."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            said = log.read(MOST_BYTES).decode("utf-8", "replace").splitlines()
            errors = [line for line in said if ERROR.search(line)] or said[-1:]
            told = " … ".join(
                dict.fromkeys(line.strip()[-500:] for line in errors[:1] + errors[-1:])
            )
            return f"{told}; all that it said: {self._log}"
        return f"see {self._log}"

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if (code := self._process.poll()) is not None:
                found = f"code {code}: {self._last_words()}"
                raise EngineError("vLLM does not serve this folder", found=found)
            if self._get("/health")[0] == 200:
                self._check_ours()
                return
            time.sleep(LOOK_EVERY_S)
        raise EngineError("vLLM did not come up", found=self._last_words(), expected=f"{START_S} s")

    def _check_ours(self) -> None:
        """Raises EngineError where another server took the port before ours did. The key that it is
        shown opens nothing but ours."""
        status, body = self._get("/v1/models", {"Authorization": f"Bearer {self._key}"})
        if status != 200 or self._model.encode() not in body:
            raise EngineError(
                f"another server than ours answers on port {self.port}",
                found=f"{status} to /v1/models",
                expected=f"the model {self._model}",
                do=f"start it again, without --port and --served-model-name in {VLLM_ARGUMENTS}",
            )

    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body; 0: nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), closing(connection):
            connection.request("GET", path, headers=dict(headers or {}))
            with connection.getresponse() as response:
                return response.status, response.read(MOST_BYTES)
        return 0, b""


def _interpreter() -> str:
    """Raises SpecError or MissingExtra if there is none that has vLLM."""
    if given := os.environ.get(VLLM_PYTHON):
        if shutil.which(given) is None:
            raise SpecError(
                f"{VLLM_PYTHON} is no program", found=given, expected="a Python with vLLM"
            )
        return given
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra(
            "the vllm engine needs vLLM",
            found="neither installed here nor elsewhere",
            do=f"pip install 'whorl[vllm]', or set {VLLM_PYTHON} to a Python that has it",
        )
    return sys.executable


def _arguments(card: FolderCard, setup: EngineSetup) -> list[str]:
    """Of vLLM's server; what WHORL_VLLM_ARGS says comes last, and so prevails."""
    sharing = "" if setup.shares_prefixes else "no-"
    options = {
        "--host": "127.0.0.1",
        "--dtype": DTYPES.get(card.variant.weights, "auto"),
        "--max-model-len": card.shape.max_seq_len,
        "--max-num-seqs": setup.max_running,
        "--max-num-batched-tokens": max(setup.batched_tokens, setup.max_running),
        "--generation-config": "vllm",  # a request's fields alone
        "--uvicorn-log-level": "warning",
    }
    words = [str(word) for pair in options.items() for word in pair]
    words += [
        f"--{sharing}enable-prefix-caching",
        "--enable-chunked-prefill",
        "--disable-log-stats",
    ]
    try:
        return words + shlex.split(os.environ.get(VLLM_ARGUMENTS, ""))
    except ValueError as error:
        raise SpecError(f"{VLLM_ARGUMENTS} cannot be read", found=error) from error


def _environment(key: str, card: FolderCard, setup: EngineSetup) -> dict[str, str]:
    """Its own packages, nothing fetched, nothing told to others; on a CPU its share of it."""
    needed = max(setup.cache_bytes, card.cache_bytes_per_token * card.shape.max_seq_len)
    ours = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(int(-(-needed // 2**30))),
    }
    if setup.threads is not None:
        ours |= {"OMP_NUM_THREADS": str(setup.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**ours, **given, "VLLM_API_KEY": key}


# ------------------------------------------------------------------ HTTP


def _head(connection: h11.Connection, key: str, data: bytes) -> bytes:
    headers = [
        ("Host", "127.0.0.1"),
        ("Authorization", f"Bearer {key}"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(data))),
        ("Connection", "close"),
    ]
    request = h11.Request(method="POST", target="/v1/completions", headers=headers)
    return connection.send(request) or b""


async def _events(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> AsyncIterator[h11.Event]:
    """Until the answer's end. Raises h11.RemoteProtocolError if it has none."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(2**16))
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return
        elif isinstance(event, h11.Event):
            yield event


def _words(body: bytes) -> str:
    """What an error says, in its form or any other."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode("utf-8", "replace")
