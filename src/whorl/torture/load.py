"""C1-C3, C14, C16, C18: more clients than there is room for, slow ones, ones that leave."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import statistics
import struct
import time
from collections.abc import Sequence

from whorl.torture.target import Attack, Outcome, Reply, Victim

__all__ = ["ATTACKS", "quantile"]

CLOSED_LOOP = 24  # clients that measure the peak
OVERLOAD = 10.0
MANY = 5_000  # sockets
ANSWER_TOKENS = 96  # so that ten times the peak is no attack on accepting connections
LONG_S = 20  # shorter runs share their machine with other tests: their bars are lower
SETTLE_S = 10.0  # for what was left to be given back
LEAVE = struct.pack("ii", 1, 0)  # SO_LINGER: a reset instead of a goodbye


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them is at most; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


# ------------------------------------------------------------------ C1


def overload(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Ten times what it can: the answers per second must stay, the rest be refused at once."""
    asyncio.run(_overload(target, trials, seed, found))


async def _overload(target: Victim, seconds: int, seed: int, found: Outcome) -> None:
    before = target.memory_bytes()
    peak_per_s = await _closed_loop(target, seconds)
    chooser, answers = random.Random(seed), list[Reply]()
    tasks: set[asyncio.Task[None]] = set()
    data = target.completion(max_tokens=ANSWER_TOKENS)

    async def one() -> None:
        answers.append(await target.ask(data))

    began_s = due_s = time.monotonic()
    last = None
    while due_s < began_s + seconds:
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due_s += chooser.expovariate(OVERLOAD * peak_per_s)
        last = time.monotonic()
    sent_s = max((last or began_s) - began_s, 1e-9)
    done = sum(answer.status == 200 for answer in answers)
    offered = len(answers) + len(tasks)
    await asyncio.gather(*tasks)
    refused = [answer for answer in answers if answer.status == 429]
    refusal_s = quantile([answer.took_s for answer in refused], 0.95)
    after = target.memory_bytes()
    found.figures |= {
        "peak answers/s": round(peak_per_s, 1),
        "offered/s": round(offered / sent_s, 1),
        "answers/s at 10x": round(done / sent_s, 1),
        "share of peak": round(done / sent_s / peak_per_s, 3),
        "refused": len(refused),
        "refusal p95, ms": round(refusal_s * 1e3, 1),
    }
    for answer in answers:
        is_right = answer.status == 200 or (answer.status == 429 and answer.retry_after_s)
        found.check(bool(is_right), f"{answer.status} {answer.head[:200]!r}")
    share, most_s = (0.9, 0.1) if seconds >= LONG_S else (0.6, 1.0)
    found.check(done / sent_s >= share * peak_per_s, "answers/s fell too far below the peak")
    found.check(bool(refused), "nothing was refused at ten times the peak")
    found.check(refusal_s < most_s, f"a refusal took {refusal_s * 1e3:.0f} ms")
    if before is not None and after is not None:
        found.figures["memory grown by MiB"] = round((after - before) / 2**20, 1)
        found.check(after - before < 200 * 2**20, f"memory grew by {after - before:,} bytes")


async def _closed_loop(target: Victim, seconds: float) -> float:
    """Answers per second of clients that each ask again when they were answered."""
    data, ends = target.completion(max_tokens=ANSWER_TOKENS), list[float]()
    end_s = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end_s:
            if (await target.ask(data)).status == 200:
                ends.append(time.monotonic())

    began_s = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CLOSED_LOOP)))
    if not ends:
        raise OSError("the server answered nothing")
    return len(ends) / (max(ends) - began_s)


# ------------------------------------------------------------------ C2


def hold_sockets(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """So many sockets that say nothing, or a byte a second, beside a client that pays."""
    asyncio.run(_hold_sockets(target, trials, seed, found))


async def _hold_sockets(target: Victim, sockets: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    alone_s = await _paying(target, 40)
    files = target.num_open_files()
    head = target.head("POST", "/v1/completions")
    openings = (b"", b"P", head[: len(head) // 2], head + b"Content-Length: 500\r\n\r\n{")
    writers: list[asyncio.StreamWriter] = []
    closed = 0

    async def hold() -> None:
        nonlocal closed
        try:
            reader, writer = await asyncio.open_connection(*target.address)
        except OSError:
            closed += 1
            return
        writers.append(writer)
        try:
            writer.write(chooser.choice(openings))
            while not reader.at_eof():
                try:
                    async with asyncio.timeout(1.0):
                        if not await reader.read(4096):
                            break
                except TimeoutError:
                    writer.write(b"x")
        except OSError:
            pass
        closed += 1

    tasks = []
    for number in range(sockets):
        tasks.append(asyncio.create_task(hold()))
        if number % 50 == 49:
            await asyncio.sleep(0)
    beside_s = await _paying(target, 40)
    end_s = time.monotonic() + 60
    while closed < sockets and time.monotonic() < end_s:
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.5)
    left = target.num_open_files()
    found.trials += sockets
    before_s, during_s = quantile(alone_s, 0.95), quantile(beside_s, 0.95)
    found.figures |= {
        "paying p95 alone, ms": round(before_s * 1e3, 1),
        "paying p95 beside, ms": round(during_s * 1e3, 1),
        "closed by the server": closed,
    }
    found.check(len(beside_s) == 40, "the paying client was refused")
    most_s = 2 * before_s + (0.05 if sockets >= MANY else 0.5)
    found.check(during_s < most_s, f"p95 {before_s:.3f} s became {during_s:.3f} s")
    found.check(closed == sockets, f"{sockets - closed} slow sockets were still open after 60 s")
    if files is not None and left is not None:
        found.figures["files left open"] = left - files
        found.check(left - files <= 5, f"{left - files} files stayed open")


async def _paying(target: Victim, number: int) -> list[float]:
    answers = [await target.ask(target.completion(max_tokens=8)) for _ in range(number)]
    return [answer.took_s for answer in answers if answer.status == 200]


# ------------------------------------------------------------------ C3


def leave_early(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Clients that are gone at a random moment, by a goodbye, a reset or without reading."""
    asyncio.run(_leave_early(target, trials, seed, found))


async def _leave_early(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    files = target.num_open_files()
    gate = asyncio.Semaphore(CLOSED_LOOP)

    async def one() -> None:
        stream, stays_s = chooser.random() < 0.7, chooser.random() ** 2 * 0.2
        async with gate:
            reader, writer = await asyncio.open_connection(*target.address)
            writer.write(target.completion(max_tokens=200, stream=stream))
            try:
                async with asyncio.timeout(stays_s):
                    await reader.read(chooser.randrange(1, 5000))
                    await asyncio.sleep(stays_s)
            except (TimeoutError, OSError):
                pass
            if chooser.random() < 0.5:
                end = writer.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LEAVE)
            writer.close()

    for result in await asyncio.gather(*(one() for _ in range(trials)), return_exceptions=True):
        found.check(not isinstance(result, BaseException), repr(result))
    began_s = time.monotonic()
    inside = await _inside(target)
    while inside and time.monotonic() < began_s + SETTLE_S:
        await asyncio.sleep(0.02)
        inside = await _inside(target)
    found.figures["free again after s"] = round(time.monotonic() - began_s, 2)
    found.check(inside == 0, f"{inside} requests are still inside after {SETTLE_S:g} s")
    left = target.num_open_files()
    if files is not None and left is not None:
        found.figures["files left open"] = left - files
        found.check(left - files <= 5, f"{left - files} files stayed open")


async def _inside(target: Victim) -> int:
    answer = await target.ask(target.request("/health"))
    return int(json.loads(answer.body)["requests"])


# ------------------------------------------------------------------ C14, C16


def mix_up(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Secrets of 64 prompts at once: none may come back in another's answer."""
    asyncio.run(_mix_up(target, trials, seed, found))


async def _mix_up(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    gate = asyncio.Semaphore(64)
    secrets = [f"{chooser.randrange(10**9):09d}" for _ in range(trials)]

    async def one(secret: str) -> Reply:
        async with gate:
            data = target.completion(prompt=f"Say {secret} {secret} {secret}", max_tokens=24)
            return await target.ask(data)

    answers = await asyncio.gather(*(one(secret) for secret in secrets))
    for secret, answer in zip(secrets, answers, strict=True):
        text = answer.body.decode("utf-8", "replace")
        others = [other for other in secrets if other != secret and other in text]
        is_right = answer.status in (200, 429) and not others
        found.check(is_right, f"{answer.status}: asked with {secret}, came with {others[:3]}")
    found.figures["answered"] = sum(answer.status == 200 for answer in answers)


def ask_among_others(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Greedy, alone and among random others: the same answer."""
    asyncio.run(_ask_among_others(target, trials, seed, found))


async def _ask_among_others(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    words = ("shell", "river", "stone", "the", "adds", "7", "by the sea", "lantern")

    def drawn() -> bytes:
        prompt = " ".join(chooser.choices(words, k=chooser.randrange(2, 20)))
        return target.completion(prompt=prompt, max_tokens=16, temperature=0)

    for _ in range(math.ceil(trials / 8)):
        batch = [drawn() for _ in range(8)]
        alone = [await target.ask(data) for data in batch]
        together = await asyncio.gather(*(target.ask(data) for data in batch))
        for one, other in zip(alone, together, strict=True):
            is_same = _text(one) == _text(other) is not None
            found.check(is_same, f"{_text(one)!r} alone, {_text(other)!r} among others")


def _text(answer: Reply) -> str | None:
    return None if answer.status != 200 else str(json.loads(answer.body)["choices"][0]["text"])


# ------------------------------------------------------------------ C18


def soak(target: Victim, trials: int, seed: int, found: Outcome) -> None:
    """Mixed load for so many seconds: memory, open files and waits must not grow."""
    asyncio.run(_soak(target, trials, seed, found))


async def _soak(target: Victim, seconds: int, seed: int, found: Outcome) -> None:
    chooser = random.Random(seed)
    end_s = time.monotonic() + seconds
    waits_s: list[float] = []
    memory: list[float] = []

    async def client() -> None:
        while time.monotonic() < end_s:
            stream = chooser.random() < 0.5
            data = target.completion(max_tokens=chooser.randrange(1, 40), stream=stream)
            answer = await target.ask(data)
            waits_s.append(answer.took_s)
            found.check(answer.status in (200, 429), answer.status)

    clients = [asyncio.create_task(client()) for _ in range(12)]
    while time.monotonic() < end_s:
        await asyncio.sleep(seconds / 40)
        memory.append((target.memory_bytes() or 0) / 2**20)
    await asyncio.gather(*clients)
    thirds = len(waits_s) // 3 or 1
    first, last = waits_s[thirds : 2 * thirds], waits_s[-thirds:]
    settled = memory[len(memory) // 4 :]
    grown = statistics.fmean(settled[-5:]) - statistics.fmean(settled[:5])
    before_s, after_s = quantile(first, 0.95), quantile(last, 0.95)
    found.figures |= {
        "requests": len(waits_s),
        "memory grown by MiB": round(grown, 1),
        "p95 of the middle, ms": round(before_s * 1e3, 1),
        "p95 of the last third, ms": round(after_s * 1e3, 1),
    }
    found.check(grown < 20, f"memory grew by {grown:.0f} MiB")
    most_s = 2 * before_s + (0.05 if seconds >= LONG_S else 1.0)
    found.check(after_s < most_s, f"p95 {before_s:.3f} s became {after_s:.3f} s")


ATTACKS = (
    Attack(
        "C1",
        "overload, ten times the peak (trials: seconds of each half)",
        "answers/s at least 90% of the peak, the rest 429 in 100 ms with Retry-After",
        *(4, 60),
        overload,
    ),
    Attack(
        "C2",
        "idle and slow sockets beside a paying client",
        "its p95 stays below twice, slow ones are closed at their deadline",
        *(1_000, 10_000),
        hold_sockets,
    ),
    Attack(
        "C3", "clients that leave", "places and files are free again", *(300, 10_000), leave_early
    ),
    Attack(
        "C14", "secrets of 64 prompts at once", "none in another's answer", *(100, 10_000), mix_up
    ),
    Attack(
        "C16",
        "the same answer alone and among others",
        "the same text, greedy",
        *(32, 5_000),
        ask_among_others,
    ),
    Attack("C18", "mixed load for long (trials: seconds)", "nothing grows", *(2, 300), soak),
)
