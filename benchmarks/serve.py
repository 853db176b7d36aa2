"""A whorl server beside the engine it runs, and others' servers: rates, latencies, memory, start.

    python benchmarks/serve.py MODEL_FOLDER [--rounds 3] [--users 1 4 16 64] [--json]
    python benchmarks/serve.py MODEL_FOLDER --hf HF --gguf FILE --vllm PYTHON   # beside them
    python benchmarks/serve.py --random            # a model of 3 million parameters

Everybody gets the same prompts (ids of real text) and answers greedily. Closed loop: each user
sends its next request when the last is answered. Open loop: requests come by a Poisson process at
0.7 of the rate that the engine had with 16 users, whatever the server does. Systems take turns
within a round, the others' processes stand still meanwhile (SIGSTOP); medians of rounds.
transformers gets requests that come together as one batch, the best it can do; it has no first
token before the last. Its server, and llama-cpp-python's, answer one request after another (its
continuous batching gave no answer on a CPU: 5.23). A server that fails is named and left out.
Clients run on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from serve_systems import Child, Load, Server, peers

TEXTS = Path(__file__).resolve().parents[1].glob("docs/*.md")
RANDOM_MODEL = {
    "layers": 4,
    "width": 192,
    "heads": 6,
    "kv_heads": 3,
    "head_dim": 32,
    "ffn_width": 512,
    "vocab_size": 4096,
    "max_seq_len": 512,
}
OPEN_SHARE, OPEN_USERS, OPEN_REQUESTS = 0.7, 16, 16
Rows = dict[tuple[str, str], list[dict[str, float]]]


# ------------------------------------------------------------------ the comparison


def prompts_of(folder: Path, num_tokens: int) -> list[list[int]]:
    from whorl.codecs.contract import Tokens

    tokens = Tokens.load(folder / "tokens")
    text = "\n".join(path.read_text() for path in sorted(TEXTS))
    ids = tokens.encode_prompt(text)[1:]
    start = list(tokens.contract.start_ids)
    length = num_tokens - len(start)
    starts = range(0, len(ids) - length, length)
    return [start + ids[at : at + length] for at in starts]


def compare(folder: Path, hf: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    prompts = prompts_of(folder, arguments.prompt_tokens)
    first = Server(folder)  # the second start knows what the first has found out
    first.run(Load(prompts, 2, 1, 1))
    first.close()
    starts: list[Callable[[], Any]] = [partial(Child, "engine", folder), partial(Server, folder)]
    starts += [] if hf is None else [partial(Child, "transformers", hf)]
    starts += peers(folder, hf, arguments.gguf, arguments.vllm)
    load = Load(prompts, 4, 4, 1, number=10**6)  # at once: the time of a start ends with its answer
    systems = [each for each in map(_started, starts) if each is not None and _tried(each, load)]
    first_token_s = {system.name: [system.first_token_s] for system in systems}
    server = next((each for each in systems if isinstance(each, Server)), None)
    if server is None:
        raise SystemExit("there is nothing to compare: whorl serve did not start")
    first_token_s[server.name].insert(0, first.first_token_s)
    rows: Rows = {}
    for turn in range(arguments.rounds):
        systems.append(systems.pop(0))  # another goes first
        _round(systems, rows, turn, prompts, arguments)
    first_token_s = {system.name: first_token_s[system.name] for system in systems}
    memory = {system.name: sum(map(peak_bytes, processes_of(system))) for system in systems}
    for system in systems:
        system.close()
    medians = {
        f"{name}, {load}": {key: statistics.median(each[key] for each in found) for key in found[0]}
        for (name, load), found in rows.items()
    }
    ratios = {
        load: statistics.median(
            a["tokens_per_s"] / b["tokens_per_s"]
            for a, b in zip(found, rows["engine", load], strict=True)
        )
        for (name, load), found in rows.items()
        if name == server.name
    }
    return {
        "model": str(folder),
        "cpus": os.cpu_count(),
        "prompt_tokens": arguments.prompt_tokens,
        "answer_tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "figures": medians,
        "server_of_engine": ratios,
        "first_token_after_start_s": first_token_s,
        "peak_bytes": memory,
        "promise": server.promise,
    }


def _round(
    systems: list[Any],
    rows: Rows,
    turn: int,
    prompts: list[list[int]],
    arguments: argparse.Namespace,
) -> None:
    """Every system under every load, once."""
    tokens = arguments.tokens
    for users in arguments.users:
        each = 4 if users <= 4 else 2 if users <= 16 else 1
        for system in list(systems):
            is_batch = system.name == "transformers"
            if is_batch and users > 16:
                continue
            load = Load(prompts, tokens, users, 1 if is_batch else each, number=turn * 7 + users)
            _measure(system, load, f"{users} users", systems, rows)
    known = rows.get(("engine", f"{OPEN_USERS} users"))
    if known is None:
        return
    rate = OPEN_SHARE * known[-1]["tokens_per_s"] / tokens
    for system in list(systems):
        if system.name != "transformers":
            load = Load(prompts, tokens, 1, OPEN_REQUESTS, rate, number=turn * 7 + 5)
            _measure(system, load, "open loop", systems, rows)


def _measure(system: Any, load: Load, name: str, systems: list[Any], rows: Rows) -> None:
    """One more row, or one system less."""
    try:
        with alone(system, systems):
            row = measured(system, load)
        rows.setdefault((system.name, name), []).append(row)
    except (OSError, SystemExit, psutil.Error) as error:
        print(f"{system.name} is left out: {error}", file=sys.stderr, flush=True)
        systems.remove(system)
        system.close()
        for key in [key for key in rows if key[0] == system.name]:
            del rows[key]


def _started(start: Callable[[], Any]) -> Any:
    """None: it does not start, which is told."""
    try:
        return start()
    except (OSError, SystemExit) as error:
        print(f"left out: {error}", file=sys.stderr, flush=True)
        return None


def _tried(system: Any, load: Load) -> bool:
    try:
        system.run(load)
    except (OSError, SystemExit) as error:
        print(f"{system.name} is left out: {error}", file=sys.stderr, flush=True)
        system.close()
        return False
    return True


def processes_of(system: Any) -> list[psutil.Process]:
    first = psutil.Process(system.process.pid)
    return [first, *first.children(recursive=True)]


@contextmanager
def alone(system: Any, systems: list[Any]) -> Iterator[None]:
    """The others stand still: a server that waits for requests may ask for them all the time."""
    others = [each for other in systems if other is not system for each in processes_of(other)]
    try:
        for each in others:
            with suppress(psutil.NoSuchProcess):  # it ended: its own turn tells
                each.suspend()
        yield
    finally:
        for each in others:
            with suppress(psutil.NoSuchProcess):
                each.resume()


def measured(system: Any, load: Load) -> dict[str, float]:
    """Figures, told on stderr as they come, and the processor time of all its processes."""
    everyone = processes_of(system)
    before = [sum(each.cpu_times()[:2]) for each in everyone]
    found: dict[str, float] = system.run(load)
    spent = [sum(each.cpu_times()[:2]) - was for each, was in zip(everyone, before, strict=True)]
    tokens = found.pop("tokens")
    found["cpu_ms_per_token"] = 1000 * sum(spent) / tokens
    found["first_process_cpu_ms_per_token"] = 1000 * spent[0] / tokens
    shown = {key: round(value, 2) for key, value in found.items()}
    print(system.name, load.users, load.rate, shown, file=sys.stderr, flush=True)
    return found


def peak_bytes(process: psutil.Process) -> int:
    """The most a process ever had in memory, where the system tells; else what it has now."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return int(process.memory_info().rss)


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']}: {result['prompt_tokens']} tokens in, {result['answer_tokens']} out, "
        f"{result['cpus']} CPUs, median of {result['rounds']} rounds"
    )
    print(f"{'':<28}{'tokens/s':>10}{'first token ms (50 95 99)':>30}{'a token ms (50 95 99)':>28}")
    for name, each in sorted(result["figures"].items(), key=lambda item: item[0].split(", ")[::-1]):
        first, token = (
            " ".join(f"{each[f'{key}_p{p}']:8.1f}" for p in (50, 95, 99))
            for key in ("ttft_ms", "token_ms")
        )
        print(f"{name:<28}{each['tokens_per_s']:>10.1f}{first:>30}{token:>28}")
    for load, ratio in result["server_of_engine"].items():
        print(f"the server's share of its engine's tokens/s, {load}: {ratio:.3f}")
    for name, seconds in result["first_token_after_start_s"].items():
        print(f"{name}: first token after {' then '.join(f'{s:.1f} s' for s in seconds)}")
    for name, each in result["figures"].items():
        own, total = each["first_process_cpu_ms_per_token"], each["cpu_ms_per_token"]
        print(f"{name}: {total:.2f} ms of processors a token, {own:.2f} of its first process")
    for name, size in result["peak_bytes"].items():
        print(f"{name}: {size / 2**20:,.0f} MiB at most")
    print(f"promise: {result['promise']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--hf", type=Path, help="the same model for transformers")
    parser.add_argument("--gguf", type=Path, help="the same model for llama-cpp-python's server")
    parser.add_argument("--vllm", help="a Python with vLLM; takes --hf")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, hf = arguments.folder, arguments.hf
        if arguments.random:
            folder, hf = random_model(Path(temporary))
        if folder is None:
            parser.error("name a model folder, or --random")
        result = compare(folder, hf, arguments)
    print(json.dumps(result, indent=1)) if arguments.json else show(result)


def random_model(root: Path) -> tuple[Path, Path]:
    from whorl.engines.openvino_export import export_openvino
    from whorl.testing.models import tiny_model_folder

    hf = tiny_model_folder(root / "hf", steps=0, **RANDOM_MODEL)
    export_openvino(hf, root / "openvino")
    return root / "openvino", hf


if __name__ == "__main__":
    main()
