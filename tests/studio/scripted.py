"""A server that answers as OpenAI's documentation says a full one does, from a script.

The page is written against that API; here it meets what an engine without weights cannot show:
log-probabilities, tool calls, structured output, several models, metrics. By hand:

    python -m tests.studio.scripted 8123
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from whorl.stages.serve.access import Access, Guard
from whorl.stages.serve.page import PAGE_FILES, add_page

KEY = "scripted-key-0123456789"
STEP_S = 0.015
TEXT = """A **whorl** is one turn of a spiral, as in the shell of a snail.

Each whorl is larger than the last and has *the same shape*:

1. The animal grows at the open end.
2. The curve keeps its angle, so nothing has to be rebuilt.
3. What was built stays as it was.

```python
radius = first * growth ** turns
```

> The shape is a logarithmic spiral."""
PERSON = {"name": "Ada Lovelace", "age": 36}
FIGURE = {"name": "", "field": "code", "metric": "bits_per_byte", "low": 1.4, "high": 1.6}


def model_of(name: str, variant: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 1_795_000_000,
        "owned_by": "whorl",
        "context_length": 2048,
        "max_tokens": 512,
        "contract_digest": "5f" * 16,
        "vocab_size": 49152,
        "codecs": [
            {"name": "text", "kind": "text", "media_type": "text/plain", "id_start": 0, "id_end": 9}
        ],
        "engine": "openvino",
        "variant": variant,
        "lineage": {"prepare": "ab" * 16, "train": "cd" * 16, "compress": "ef" * 16},
        "quality": [{**FIGURE, "value": 1.512, "shown": "1.512"}],
        "variants": [
            {"variant": "hf f32", "quality": [{**FIGURE, "value": 1.5, "shown": "1.500"}]},
        ],
        "promise": {
            "basis": "measured",
            "users": 8,
            "ttft_p95_s": 0.18,
            "tokens_per_s_per_user": 24.5,
            "tokens_per_s": 196.0,
            "prompt_tokens": 512,
            "memory_bytes": 3 * 2**30,
            "missed": ["ttft_p95 100 ms: 180 ms"],
        },
        "example_prompt": "The shell adds",
        "sampling": {"temperature": 0.7, "top_p": 0.95, "seed": 0},
        "chats": True,
        "tool_calls": "hermes",
        "engine_unable": [],
    }


MODELS = [model_of("snail", "openvino int8"), model_of("nautilus", "hf f32")]


def scripted_app(step_s: float = STEP_S) -> FastAPI:
    """app.state.bodies: what was asked; .refuse: {field: message} of what it refuses."""
    app = FastAPI(openapi_url=None)
    state = app.state
    state.access, state.bodies, state.refuse = Access.of(KEY), [], {}
    state.models = MODELS
    app.add_middleware(
        Guard, access=state.access, allowed_hosts=(), open_paths=frozenset(PAGE_FILES)
    )
    add_page(app)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "requests": 0, "last_progress_s": None})

    @app.get("/metrics")
    async def metrics() -> Response:
        lines = "# HELP whorl_running x\nwhorl_running 3.0\nwhorl_waiting 1.0\n"
        return PlainTextResponse(lines + "whorl_tokens_per_second 412.4\n")

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": state.models})

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        state.bodies.append(await request.json())
        return JSONResponse({"stored": True})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, "delta")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, "text")

    async def answer(request: Request, key: str) -> Response:
        body = await request.json()
        state.bodies.append(body)
        for field, message in state.refuse.items():
            if field in body:
                error = {"message": message, "param": field, "code": "unsupported_parameter"}
                return JSONResponse({"error": error}, 400)
        return StreamingResponse(events_of(body, key, step_s), media_type="text/event-stream")

    return app


async def events_of(body: dict[str, Any], key: str, step_s: float) -> AsyncIterator[str]:
    base = {"id": f"{'chatcmpl' if key == 'delta' else 'cmpl'}-1234", "model": body["model"]}
    count = 0
    for choice in choices_of(body, key):
        count += 1
        yield f"data: {json.dumps({**base, 'choices': [{'index': 0, **choice}]})}\n\n"
        await asyncio.sleep(step_s)
    usage = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}
    yield f"data: {json.dumps({**base, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def choices_of(body: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    last = body["messages"][-1] if key == "delta" else {}
    if body.get("tools") and last.get("role") == "user":
        yield from tool_call(body["tools"][0]["function"]["name"])
        return
    text = TEXT
    if "response_format" in body:
        text = json.dumps(PERSON)
    elif last.get("role") == "tool":
        text = f"It said: {last['content']}."
    elif key == "text":
        text = " a new turn at its open end, and each turn is larger than the last."
    for token in re.findall(r"\s*\w+|\s*[^\w\s]+|\s+", text):
        said = {"delta": {"content": token}} if key == "delta" else {"text": token}
        yield {**said, "logprobs": logprobs_of(body, token, key), "finish_reason": None}
    yield {**({"delta": {}} if key == "delta" else {"text": ""}), "finish_reason": "stop"}


def tool_call(name: str) -> Iterator[dict[str, Any]]:
    for n, piece in enumerate(('{"city"', ': "Porto', '"}')):
        call: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
        if n == 0:
            call |= {"id": "call_1", "type": "function"}
            call["function"]["name"] = name
        yield {"delta": {"tool_calls": [call]}, "finish_reason": None}
    yield {"delta": {}, "finish_reason": "tool_calls"}


def logprobs_of(body: dict[str, Any], token: str, key: str) -> dict[str, Any] | None:
    """A share that follows from the token's text, and two others that share the rest."""
    if not body.get("logprobs"):
        return None
    import math

    share = (0.05, 0.2, 0.45, 0.7, 0.97)[sum(map(ord, token)) % 5]
    top = {token: math.log(share), " shell": math.log(0.02), "\n": math.log(0.01)}
    if key == "text":
        return {
            "tokens": [token],
            "token_logprobs": [top[token]],
            "top_logprobs": [top],
            "text_offset": [0],
        }
    told = [{"token": text, "logprob": value, "bytes": None} for text, value in top.items()]
    return {"content": [{**told[0], "top_logprobs": told}]}


if __name__ == "__main__":
    import uvicorn

    port = int(sys.argv[1])
    served = scripted_app()
    print(served.state.access.page_address(f"http://127.0.0.1:{port}"), flush=True)
    uvicorn.run(served, port=port, log_level="warning")
