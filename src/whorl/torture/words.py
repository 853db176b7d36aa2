"""C4-C6: requests that are broken, too large, or bring a template of their own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from whorl.torture.target import Attack, Outcome, Victim, status_of

__all__ = ["ATTACKS"]

WORKERS = 8
POSTS = ("/v1/completions", "/v1/chat/completions")
SCRAPS = (
    *(b"\r\n", b"\r", b"\n", b":", b" ", b"\x00", b"\xff", b"HTTP/1.1", b"chunked", b"%00"),
    *(b"9" * 30, b'"', b"{", b"]", b"\\u0000", b"\\ud800", b"NaN", b"-", b"\xc3"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 10**400, -(10**400), 1.5, "", "x", "\x00", "\ud800"),
    *([], {}, [[]], [None], {"a": {}}, "9" * 5000, ["a"] * 5000, [1e308], [-1], [2**40]),
)
FIELDS = (
    *("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "n"),
    *("stream_options", "logprobs", "logit_bias", "messages", "tools", "tool_choice", "top_k"),
    *("response_format", "presence_penalty", "frequency_penalty", "allowed_token_ids", "best_of"),
    *("answer_codec", "suffix", "echo", "user", "unheard_of", "guided_regex", "min_p"),
)


def send_all(
    target: Victim,
    requests: Iterable[bytes],
    found: Outcome,
    is_right: Callable[[int | None], bool],
    leave: bool = False,
) -> None:
    """Sends each, several at a time, and checks the status that comes back.

    leave: of requests that may not be whole: nobody need wait for the rest.
    """

    def one(data: bytes) -> tuple[bytes, int | None]:
        return data, status_of(target.exchange(data, leave))

    with ThreadPoolExecutor(WORKERS) as pool:
        for data, status in pool.map(one, requests):
            key = "no answer" if status is None else str(status)
            found.figures[key] = int(found.figures.get(key, 0)) + 1
            found.check(is_right(status), f"{status} for {data[:300]!r}")


def _no_fault(status: int | None) -> bool:
    """Answered or refused. 501: a model that has no chat template."""
    return status is None or status < 500 or status == 501


# ------------------------------------------------------------------ C4


def _mutated(data: bytes, chooser: random.Random) -> bytes:
    for _ in range(chooser.randrange(1, 6)):
        at = chooser.randrange(len(data) + 1)
        scrap = chooser.choice([b"", chooser.choice(SCRAPS), bytes([chooser.randrange(256)])])
        data = data[:at] + scrap + data[at + chooser.randrange(6) :]
    return data


def _whole_heads(target: Victim) -> list[bytes]:
    """Requests that no client sends: two lengths, no length, lengths that lie."""
    head = target.head("POST", "/v1/completions")
    ends = (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"Content-Length: +5\r\n\r\nabcde",
        b"Content-Length: 0x5\r\n\r\nabcde",
        b"Content-Length: 1073741824\r\n\r\n{",
        b"Content-Length: 99999999999999999999999\r\n\r\n{",
        b"Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
        b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
        b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"".join(b"X%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        b"X: a\r\n folded\r\n\r\n",
        b"X\x00Y: a\r\n\r\n",
    )
    return [head + end for end in ends]


def _texts(target: Victim) -> list[bytes]:
    """Bodies that are no JSON, or JSON that breaks readers."""
    whole = json.dumps(target.body())
    deep = 100_000
    return [
        *(b"", b"null", b"[]", b'"x"', b"1", b"{", b"}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN"),
        *(b"[" * deep, b'{"a":' * deep, b"[" * 60 + b"]" * 60, b'{"model": "\xc3"}'),
        whole.replace("{", '{"model": "other", ', 1).encode(),
        whole.replace("4", "NaN").encode(),
        whole.replace("4", "1e999").encode(),
        whole.replace("4", "9" * 200_000).encode(),
        whole.replace("a shell", "\\ud800").encode(),
        whole.replace("a shell", "\\u0000").encode(),
        whole.encode("utf-16"),
        whole.encode("utf-8") + b"\x00",
        whole.encode() + whole.encode(),
    ]


def break_requests(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    fixed = [*_whole_heads(target), *(target.request(POSTS[0], text) for text in _texts(target))]

    def requests() -> Iterable[bytes]:
        yield from fixed
        for _ in range(max(0, trials - len(fixed))):
            body = target.body(temperature=0.5, stop=["x"], max_tokens=2)
            for _ in range(chooser.randrange(3)):
                body[chooser.choice(FIELDS)] = chooser.choice(VALUES)
            path = chooser.choice(POSTS)
            if path != POSTS[0]:
                body["messages"] = [{"role": "user", "content": body.pop("prompt", "a")}]
            data = target.request(path, json.dumps(body).encode())
            yield data if chooser.random() < 0.3 else _mutated(data, chooser)

    before = target.memory_bytes()
    send_all(target, requests(), found, _no_fault, leave=True)
    after = target.memory_bytes()
    if before is not None and after is not None:
        found.figures["memory grown by MiB"] = round((after - before) / 2**20, 1)
        found.check(after - before < 200 * 2**20, f"memory grew by {after - before:,} bytes")


# ------------------------------------------------------------------ C5


def ask_too_much(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    many = [f"{number}" for number in range(10_000)]
    regex = "(a+)+" * 50 + "b"
    large: dict[str, tuple[Any, ...]] = {
        "max_tokens": (0, 2**31, 2**63, 10**30),
        "prompt": ("a " * 100_000, [5] * 100_000, ["a"] * 1000, [[5]] * 1000),
        "n": (0, 17, 1000, 16_384, 2**40),
        "best_of": (2, 10_000),
        "logprobs": (6, 1000, 10**9),
        "stop": (many, ["x" * 100_000], "x" * 100_000),
        "logit_bias": (dict.fromkeys(many, 1), {"99999999": 1}, {"5": 1e308}),
        "response_format": (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": _deep_schema(500)}},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": _wide_schema(3000)}},
        ),
        "guided_regex": (regex, "(" * 5000),
        "grammar": ("root ::= root root\n" * 2000,),
        "temperature": (1e308, -1),
        "top_k": (2**31, -5),
        "allowed_token_ids": ([5] * 100_000, list(range(10_000))),
    }
    names = sorted(large)

    def requests() -> Iterable[bytes]:
        for number in range(trials):
            chosen = {names[number % len(names)], chooser.choice(names)}
            fields = {name: chooser.choice(large[name]) for name in chosen}
            yield target.completion(**fields)

    # too large to be answered: 200 only where a value happens to be within the model's limits
    send_all(target, requests(), found, lambda status: status is not None and status < 500)


def _deep_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(min(depth, 300)):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _wide_schema(width: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"k{n}": {"type": "string"} for n in range(width)}}


# ------------------------------------------------------------------ C6

TEMPLATES = (
    "{% for a in range(9**9) %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ 'a' * 10**10 }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
)


def bring_templates(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    message = {"role": "user", "content": "a"}
    places: tuple[Callable[[str], dict[str, Any]], ...] = (
        lambda text: {"chat_template": text},
        lambda text: {"template": text},
        lambda text: {"chat_template_kwargs": {"chat_template": text}},
        lambda text: {"extra_body": {"chat_template": text}},
        lambda text: {"tokenizer": {"chat_template": text}},
        lambda text: {"messages": [message | {"chat_template": text}]},
    )

    def requests() -> Iterable[bytes]:
        for number in range(trials):
            fields = places[number % len(places)](chooser.choice(TEMPLATES))
            body = {"model": target.model, "messages": [message], "max_tokens": 2} | fields
            yield target.request("/v1/chat/completions", json.dumps(body).encode())

    # a message's own keys are data for the model's template: rendering them is right, fast is too
    send_all(target, requests(), found, lambda status: status in (200, 400, 501) or status is None)
    found.check("no answer" not in found.figures, "a request with a template got no answer")


ATTACKS = (
    Attack(
        "C4",
        "broken requests: JSON, types, numbers, lengths, smuggling",
        "only 2xx and 4xx, memory bounded",
        *(800, 200_000),
        break_requests,
    ),
    Attack(
        "C5",
        "bombs: prompt, max_tokens, n, stops, bias, schemas, grammars",
        "answered or refused, never 5xx",
        *(150, 5_000),
        ask_too_much,
    ),
    Attack("C6", "templates in requests", "never rendered", *(60, 2_000), bring_templates),
)
