"""A short exercise of a running server through HTTP, for the report: answers and speed."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from whorl.core.errors import EngineError
from whorl.stages.serve.card import GREEDY, Sampling

__all__ = ["ServedAnswer", "exercise", "request_completion"]

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ServedAnswer:
    """One completion: its text, its cost, and when tokens came, on the client's clock."""

    text: str
    finish_reason: str
    num_tokens: int
    began_s: float  # time.monotonic
    first_s: float
    ended_s: float

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.began_s


def request_completion(
    base_url: str, api_key: str, prompt: str | Sequence[int], **fields: Any
) -> ServedAnswer:
    """Stream one completion; `fields` go into the body (model, max_tokens, temperature …).

    Raises EngineError on any answer but a complete one.
    """
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **fields, **usage}
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    began_s = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise EngineError("the server refused a completion", found=response.read().decode())
        return _read_answer(response, began_s)
    except (OSError, http.client.HTTPException) as error:
        raise EngineError("the server broke off", found=repr(error)) from error
    finally:
        connection.close()


def exercise(
    base_url: str,
    api_key: str,
    model: str,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_tokens: int = 64,
    concurrency: Sequence[int] = (1, 16),
    requests_per_worker: int = 2,
    sampling: Sampling = GREEDY,
    answer_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Plain data: {"completions": one per prompt, "throughput": one row per concurrency}.

    Work is bounded: one request per prompt, then concurrency * requests_per_worker each. A row's
    tokens_per_s counts all tokens from the first request to the last answer; ttft_s is the median.
    `sampling` is of the completions, the n-th with its seed + n; speed is measured greedily, so
    that it is of the same tokens on every run. answer_ids: what alone may be answered, if given.
    """
    limits = {"allowed_token_ids": list(answer_ids)} if answer_ids else {}

    def complete(number: int, drawn: Sampling) -> ServedAnswer:
        fields = drawn.model_dump() | {"model": model, "max_tokens": max_tokens} | limits
        prompt = prompts[number % len(prompts)]
        return request_completion(
            base_url, api_key, prompt, **fields | {"seed": drawn.seed + number}
        )

    answered = [(prompt, complete(n, sampling)) for n, prompt in enumerate(prompts)]
    completions = [
        {"prompt": prompt, "text": answer.text, "finish_reason": answer.finish_reason}
        for prompt, answer in answered
    ]
    rows = []
    for workers in concurrency:
        with ThreadPoolExecutor(workers) as pool:
            numbers = range(workers * requests_per_worker)
            answers = list(pool.map(lambda number: complete(number, GREEDY), numbers))
        rows.append({"concurrency": workers, **_summary(answers)})
    return {"completions": completions, "throughput": rows}


def _summary(answers: Sequence[ServedAnswer]) -> dict[str, Any]:
    elapsed_s = max(a.ended_s for a in answers) - min(a.began_s for a in answers)
    num_tokens = sum(answer.num_tokens for answer in answers)
    waits_s = sorted(answer.ttft_s for answer in answers)
    return {
        "requests": len(answers),
        "tokens": num_tokens,
        "tokens_per_s": num_tokens / max(elapsed_s, 1e-9),
        "ttft_s": statistics.median(waits_s),
        "ttft_p95_s": waits_s[min(len(waits_s) - 1, round(0.95 * (len(waits_s) - 1)))],
    }


def _read_answer(response: http.client.HTTPResponse, began_s: float) -> ServedAnswer:
    pieces: list[str] = []
    first_s: float | None = None
    finish_reason, num_tokens = "", 0
    for line in response:
        if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            raise EngineError("a completion failed", found=event["error"]["message"])
        first_s = time.monotonic() if first_s is None else first_s
        for choice in event["choices"]:
            pieces.append(choice["text"])
            finish_reason = choice["finish_reason"] or finish_reason
        if event["usage"]:
            num_tokens = event["usage"]["completion_tokens"]
    ended_s = time.monotonic()
    if not finish_reason:
        raise EngineError("a completion was cut short", found="".join(pieces)[:80])
    return ServedAnswer(
        "".join(pieces), finish_reason, num_tokens, began_s, first_s or ended_s, ended_s
    )
