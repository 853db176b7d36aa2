"""Attacks that need a server which obeys: an engine that stalls or fails, swaps, stops (C13, C15,
C17)."""

from __future__ import annotations

import json
import random
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.torture.server import fake_server
from whorl.torture.target import Attack, Outcome, Victim, status_of

__all__ = ["ORDERED"]

STALL_S = 1.0


def _text(answer: bytes) -> str:
    text: str = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"]
    return text


def stall_and_fail(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Health turns red within the deadline, and green again; no request hangs."""
    chooser = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_server(Path(folder), 0.005, max_running=4, stall_s=STALL_S) as server,
    ):
        health, reds_s = server.request("/health"), []
        for _ in range(trials):
            with ThreadPoolExecutor(4) as pool:
                asked = [
                    pool.submit(server.exchange, server.completion(max_tokens=400))
                    for _ in range(chooser.randrange(4))
                ]
                time.sleep(0.05)
                word = chooser.choice(["stall", "stall", "fail"])
                server.order(word)
                if word == "stall":
                    began_s = time.monotonic()
                    while status_of(server.exchange(health)) == 200:
                        if time.monotonic() > began_s + 12:
                            break
                        time.sleep(0.02)
                    reds_s.append(time.monotonic() - began_s)
                    # an idle one: what a token's age may be, and the probe's deadline
                    found.check(reds_s[-1] < 5 + STALL_S + 2, f"red after {reds_s[-1]:.1f} s")
                statuses = [status_of(each.result(20)) for each in asked]
                found.check(all(s in (200, 500, 503) for s in statuses), f"{word}: {statuses}")
                server.order("resume")
            began_s = time.monotonic()
            while status_of(server.exchange(health)) != 200 and time.monotonic() < began_s + 5:
                time.sleep(0.02)
            found.check(server.is_well(), f"not well after {word}")
        found.figures["red after s, most"] = round(max(reds_s, default=0.0), 2)


def swap_under_load(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Versions change while clients ask: none is refused, none gets a text of two."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_server(Path(folder), 0.002, max_running=8) as server,
    ):
        server.order("swap 2")
        ended, versions = threading.Event(), set[str]()

        def client(number: int) -> None:
            chooser = random.Random(seed + number)
            while not ended.is_set():
                answer = server.exchange(server.completion(max_tokens=chooser.randrange(1, 60)))
                status = status_of(answer)
                words = set(_text(answer).split()[:-1]) if status == 200 else set()
                versions.update(words)
                found.check(status == 200 and len(words) <= 1, f"{status} {sorted(words)}")

        with ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(client, number) for number in range(6)]
            for number in range(trials):
                time.sleep(0.05)
                server.order(f"swap {3 + number}")
            ended.set()
            for each in clients:
                each.result(30)
        found.figures |= {"swaps": trials, "versions seen": len(versions)}
        found.check(len(versions) > trials / 3, f"{trials} swaps, {len(versions)} versions seen")
        log = (Path(folder) / ".serving/answers.jsonl").read_text().splitlines()
        logged = {json.loads(line)["version"] for line in log}
        told = {int(word.removeprefix("v")) for word in versions}
        found.check(told <= logged, f"versions that answered: {told}, logged: {logged}")


def stop_under_load(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """SIGTERM at a random moment: who is inside gets all of it, the process ends with 0."""
    chooser = random.Random(seed)
    for _ in range(trials):
        with (
            tempfile.TemporaryDirectory() as folder,
            fake_server(Path(folder), 0.002, max_running=8, grace_s=5) as server,
            ThreadPoolExecutor(8) as pool,
        ):
            asked = [
                pool.submit(server.exchange, server.completion(max_tokens=100, stream=True))
                for _ in range(8)
            ]
            time.sleep(chooser.random() * 0.4)
            server.process.send_signal(signal.SIGTERM)
            for each in asked:
                try:
                    answer = each.result(20)
                except ConnectionError:  # it came too late
                    answer = b""
                whole = answer.rstrip(b"\r\n0").endswith(b"data: [DONE]")
                is_right = status_of(answer) in (None, 503) or whole
                found.check(is_right, answer[-200:])
            found.check(server.process.wait(10) == 0, "it did not end with status 0")


ORDERED = (
    Attack(
        "C13",
        "an engine that stalls or fails",
        "health red within its deadline, no request hangs, green again",
        *(2, 50),
        stall_and_fail,
    ),
    Attack(
        "C15",
        "versions swapped under load",
        "no failed request, each answer from one version",
        *(15, 1_000),
        swap_under_load,
    ),
    Attack(
        "C17",
        "SIGTERM under load",
        "answers are whole or refused, status 0",
        *(2, 50),
        stop_under_load,
    ),
)
