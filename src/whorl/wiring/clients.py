"""Many clients of a server in a process of its own: what they take is not the server's time.

A line asks, a line answers, both JSON. Only the standard library is loaded.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, NamedTuple

__all__ = ["TIMEOUT_S", "Heard", "answer"]

TIMEOUT_S = 120.0  # of all answers together


class Heard(NamedTuple):
    """What one client heard. Seconds are time.monotonic, one clock for all processes."""

    num_tokens: int
    first_s: float | None  # the first event; None: all came at the end, as a sound does
    end_s: float


class _Refused(Exception):
    pass


def answer() -> None:
    """The child's side: `{host, port, key, bodies}` in, `{begin_s, heard}` or `{error}` out."""
    for line in sys.stdin:
        try:
            told = asyncio.run(_all(**json.loads(line)))
        except TimeoutError:
            told = {"error": f"not all were answered within {TIMEOUT_S:g} s"}
        except (OSError, ValueError, LookupError, asyncio.IncompleteReadError, _Refused) as error:
            told = {"error": str(error) or repr(error)}
        print(json.dumps(told), flush=True)


async def _all(host: str, port: int, key: str, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """All are asked at once. Raises with the first that is not answered, and leaves the others."""
    begin_s = time.monotonic()
    async with asyncio.timeout(TIMEOUT_S):
        heard = await asyncio.gather(*(_one(host, port, key, body) for body in bodies))
    return {"begin_s": begin_s, "heard": heard}


async def _one(host: str, port: int, key: str, body: dict[str, Any]) -> Heard:
    """A stream of `/v1/completions`; the server writes no event in two pieces."""
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(asked).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head.encode() + data)
        if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
            raise _Refused((await reader.read()).decode(errors="replace").rpartition("\r\n\r\n")[2])
        events, times = list[bytes](), list[float]()  # parsed when nobody waits any more
        async for line in reader:
            if line.startswith(b"data: {"):
                events.append(line[len(b"data: ") :])
                times.append(time.monotonic())
            elif line.startswith(b"data: [DONE]"):
                return _heard([json.loads(event) for event in events], times)
    finally:
        writer.close()
    raise _Refused(f"broken off after {events[-1:]}")


def _heard(events: list[dict[str, Any]], times: list[float]) -> Heard:
    if failed := [event["error"]["message"] for event in events if "error" in event]:
        raise _Refused(failed[0])
    ended = [any(each["finish_reason"] for each in event["choices"]) for event in events]
    usage = next(event["usage"] for event in reversed(events) if event["usage"])
    end = ended.index(True)
    return Heard(usage["completion_tokens"], times[0] if end else None, times[end])
