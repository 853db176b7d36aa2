"""C7, C8, C10: without the key, by other paths, from other sites."""

from __future__ import annotations

import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from whorl.torture.target import Attack, Outcome, Victim, status_of

__all__ = ["ATTACKS"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO")
PAGE = ("/", "/studio.js", "/studio.css", "/icon.svg", "/favicon.ico")  # equal for everybody
ROUTES = (
    *("/health", "/metrics", "/v1/feedback", *PAGE),
    *("/v1/models", "/v1/models/x", "/v1/completions", "/v1/chat/completions", "/v1/responses"),
    *("/v1/messages", "/v1/embeddings", "/tokenize", "/detokenize", "/v1/tokenize", "/docs"),
    *("/openapi.json", "/admin", "/v1/", "//", "/v1/nothing", "/.env", "/v1/load_lora_adapter"),
    *("/health/", "/HEALTH", "//health", "/health/../v1/models", "/%68ealth/..%2fv1/models"),
    *("/health;/v1/models", "/health?/v1/models", "/v1/models#/health", "/pause", "/shutdown"),
)
OPEN = ("/health", "/health?/v1/models", *PAGE)  # the second asks /health, with a query
P_VALUE = 1e-4


def wrong_keys(target: Victim) -> Iterator[list[tuple[str, str]]]:
    """Headers that are all but the key."""
    key = target.api_key
    yield []
    for text in (
        *("", "Bearer", "Bearer ", "Bearer wrong-key-0123456789", f"Bearer {key[:-1]}", key),
        *(f"Bearer {key}x", f"Bearer {key.swapcase()}", f"Bearer {key} {key}", f"Basic {key}"),
        *(f"Bearer  {key}", f"Bearer\t{key}", f"Bearer,{key}", "Bearer null", f"Token {key}"),
    ):
        yield [("Authorization", text)]
    yield [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer x")]
    yield [("Authorization", f"Bearer {key}"), ("X-Api-Key", key)]
    yield [("X-Api-Key", key[:-1])]
    yield [("Cookie", f"whorl={key}"), ("Cookie", f"session={key}")]
    yield [("X-Forwarded-For", "127.0.0.1"), ("X-Original-URL", "/health")]
    yield [("Proxy-Authorization", f"Bearer {key}")]


def enter_without_a_key(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Every route by every method without a key, and every wrong key at some of them."""
    cases = [(method, path, list[tuple[str, str]]()) for path in ROUTES for method in METHODS]
    cases += [
        (method, path, headers)
        for headers in wrong_keys(target)
        for path in ROUTES
        for method in ("GET", "POST")
    ]
    cases += [("GET", f"/v1/models?{name}={target.api_key}", []) for name in ("key", "api_key")]
    random.Random(seed).shuffle(cases)
    for method, path, headers in cases[: max(trials, 100)]:
        if path in OPEN and method in ("GET", "HEAD"):
            continue
        lines = [("Host", "localhost"), *headers, ("Content-Length", "0"), ("Connection", "close")]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        data = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()
        status = status_of(target.exchange(data))
        found.check(status in (400, 401, 403, 404, 405), f"{status} for {data[:300]!r}")
    _time_keys(target, max(200, trials // 10), seed, found)


def _time_keys(target: Victim, pairs: int, seed: int, found: Outcome) -> None:
    """Whether a key that is nearly right is refused later than one that is all wrong."""
    chooser = random.Random(seed)
    near = target.api_key[:-1] + ("a" if target.api_key[-1] != "a" else "b")
    far = "".join(chooser.choice("ghijklmnopqrstuvwxyz") for _ in near)
    differences_s: list[float] = []
    with target.connected() as connection:
        for _ in range(pairs):
            took_s = {}
            for key in chooser.sample([near, far], 2):
                data = target.head("GET", "/v1/models", {"Authorization": f"Bearer {key}"})
                began_s = time.perf_counter()
                connection.sendall(data + b"\r\n")
                answer = connection.recv(65_536)
                took_s[key] = time.perf_counter() - began_s
                while not answer.endswith(b"}"):  # the body may come by itself
                    answer += connection.recv(65_536)
                if status_of(answer) != 401:
                    raise OSError(f"a wrong key was answered: {answer[:100]!r}")
            differences_s.append(took_s[near] - took_s[far])
    later = sum(difference > 0 for difference in differences_s)
    z = (later - pairs / 2) / math.sqrt(pairs / 4)  # sign test
    p = math.erfc(abs(z) / math.sqrt(2))
    found.figures["timed pairs"] = pairs
    found.figures["median difference, µs"] = round(statistics.median(differences_s) * 1e6, 2)
    found.figures["sign test p"] = round(p, 4)
    found.check(p > P_VALUE, f"a nearly right key takes another time: p = {p:.2g}")


# ------------------------------------------------------------------ C8


def reach_files(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """A file beside the server whose secret must never come back, nor the file change."""
    chooser = random.Random(seed)
    secret = f"canary-{chooser.randrange(10**12):012d}"
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(secret)
        payloads = list(_paths_to(canary))
        for number in range(trials):
            payload = payloads[number % len(payloads)]
            data = _with_payload(target, payload, chooser)
            answer = target.exchange(data)
            status = status_of(answer)
            is_right = secret.encode() not in answer and (status is None or status < 500)
            found.check(is_right, f"{status} for {data[:300]!r}")
        found.check(canary.read_text() == secret, "the canary was written")
        found.check(len(list(Path(folder).iterdir())) == 1, "a file was made beside the canary")


def _paths_to(canary: Path) -> Iterator[str]:
    whole = str(canary)
    for up in (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "%252e%252e%252f",
        "..\\",
        "..%5c",
        "....//",
    ):
        for depth in (1, 4, 12):
            yield up * depth + whole.lstrip("/")
    for prefix in (
        "file://",
        "file:",
        "//",
        "/./",
        "%2f",
        "\\\\",
        "~/..",
        "%00",
        "a/%00/",
        "/proc/self/root",
    ):
        yield prefix + whole
    yield from (whole, whole + "%00.html", whole + "\x00", whole + "/.", "/proc/self/environ")
    yield from ("/etc/passwd", "..;/..;" + whole, "%c0%ae%c0%ae/" + whole, "\u2025/" + whole)


def _with_payload(target: Victim, payload: str, chooser: random.Random) -> bytes:
    place = chooser.randrange(8)
    in_path = "".join(char if "!" <= char <= "~" else "%00" for char in payload)
    if place == 0:
        return target.request(f"/v1/models/{in_path}")
    if place == 1:
        return target.request(f"/{in_path.lstrip('/')}")
    if place == 2:
        return target.request(f"/studio.js/{in_path}")
    if place == 3:
        return target.request(f"/?token={in_path}&file={in_path}")
    fields: dict[str, object] = {
        4: {"model": payload},
        5: {"answer_codec": payload},
        6: {"prompt": [{"codec": payload, "data": payload}]},
        7: {"prompt": [{"codec": "special", "text": payload}]},
    }[place]  # type: ignore[assignment]
    return target.request("/v1/completions", json.dumps(target.body() | fields).encode())


# ------------------------------------------------------------------ C10


def come_from_elsewhere(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Other sites' pages, with the right key: a browser would send it for them."""
    chooser = random.Random(seed)
    host, port = target.address
    own = f"{host}:{port}"
    hosts = ("evil.example", f"{host}.evil.example", f"localhost.evil.example:{port}", "", "a b")
    origins = (
        *("http://evil.example", "null", "", "file://", f"http://{own}.evil.example", "https://a"),
        *(f"http://evil.example/{own}", f"ftp://{own}", f"http://x@{own}", f"http://{own}/"),
    )
    for _ in range(trials):
        forged = {"Host": own, "Origin": chooser.choice(origins)}
        if chooser.random() < 0.5:
            forged = {"Host": chooser.choice(hosts), "X-Forwarded-Host": own}
        path = chooser.choice(("/v1/models", "/v1/completions", "/", "/metrics"))
        data = target.request(path, None if chooser.random() < 0.5 else b"{}", forged)
        answer = target.exchange(data)
        allows = b"access-control-allow-origin" in answer.lower()
        is_right = status_of(answer) in (400, 403) and not allows
        found.check(is_right, f"{status_of(answer)} for {data[:300]!r}")


ATTACKS = (
    Attack(
        "C7",
        "without the key: routes x methods x headers; time to refuse",
        "refused on all but /health and the page, in a time that tells nothing",
        *(900, 20_000),
        enter_without_a_key,
    ),
    Attack(
        "C8",
        "paths out of the server's folders, with a canary",
        "the canary is never read or written",
        *(300, 20_000),
        reach_files,
    ),
    Attack("C10", "forged Host and Origin", "refused", *(50, 200), come_from_elsewhere),
)
