"""What a server promises: predicted before a weight is read, then measured once on this machine,
through a server, so that it is what clients get.

The prediction is the time of a step by what it must read and compute, at rates that are probed here
and shares of them that engines reach (docs/engines.md has what they were fitted to).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import ValidationError

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.digests import digest_value, write_bytes
from whorl.core.errors import EngineError, ResourceError, SpecError
from whorl.core.later import later
from whorl.core.ports import SERVERS_OWN, Engine, GenerateRequest
from whorl.core.units import format_bytes
from whorl.core.variants import Variant
from whorl.engines.apart import EngineProcess, start_here
from whorl.engines.on_ray import ray_starter
from whorl.engines.open import best_form
from whorl.engines.openvino_export import FORMAT
from whorl.engines.replicas import Replicas
from whorl.engines.setup import VLLM_ARGUMENTS, EngineSetup
from whorl.engines.threads import engine_threads
from whorl.launch.cards import found_cards
from whorl.launch.machine import machine_facts
from whorl.model.folder import FolderCard, peek_card
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.promise import Promise
from whorl.wiring.over_http import AnswerTimes, Ask, asked_over_http
from whorl.wiring.rates import probed_rates

__all__ = [
    "check_memory",
    "keep_promise",
    "open_promised",
    "predict",
    "predict_folder",
    "setup_of",
]

LOG = logging.getLogger(__name__)
VERSION = 5  # raised when the same engine would be measured otherwise
PROMPT_TOKENS = 64
ANSWER_TOKENS, FEWEST_TOKENS, LONG_S = 32, 12, 1.0  # fewer where all would take longer
RUNTIME_BYTES = 250 * 2**20  # of Python and the engine, without a model
BUSY_S, BUSY_PERCENT = 0.2, 25.0
CACHE_SHARE = 0.25  # of the memory that weights leave, at most, for keys and values


@dataclass(frozen=True)
class Shares:
    """Of the probed rates that an engine reaches; bytes in memory for a byte of weights."""

    reading: float  # of a prompt
    answering: float  # of several answers together
    weights: float
    layer_s: float = 2e-4  # of each layer and step, whatever it computes


F32, SMALL, TORCH = Shares(0.6, 0.25, 2.0), Shares(0.6, 0.5, 3.5), Shares(0.6, 0.1, 1.1)


def open_promised(
    folder: Path,
    variant: Variant | None,
    config: ServeConfig,
    cache_folder: Path,
    measures: bool = True,
) -> tuple[Engine, Callable[[Tokens, ModelCard], Promise]]:
    """An engine for a server, warm, and what tells its promise. Raises as `open_engine`.

    The latter is given what a server of the model needs and may measure through one, so call it
    when nothing else of this process runs.
    cache_folder: of exports and of what was measured.
    measures: False where another is being asked meanwhile; then the promise is a prediction.
    """
    card = peek_card(folder)
    setup = setup_of(card, config, engine_threads())
    served = variant or best_form(card, config.engine)
    predicted: Callable[[], Promise] = partial(predict, card, served, config, setup)
    if not (measures and _kept_at(cache_folder, card, served, config).is_file()):
        predicted = later(predicted).result  # while the engine's process begins
    engine = _open(folder, variant, config, setup, cache_folder)

    def promised(tokens: Tokens, shown: ModelCard) -> Promise:
        asking = partial(asked_over_http, engine, tokens, shown)
        promise = keep_promise(asking, predicted, card, served, config, cache_folder)
        if promise.users < setup.max_running:
            engine.limit_running(promise.users)
        return promise

    try:
        if measures:  # what is loaded with the first request
            prompts, most = _prompts(1, card.shape, seed=0), 2
            requests = [GenerateRequest("measure", prompts[0], most, cache_key=SERVERS_OWN)]
            run_requests(engine, requests, timeout_s=120.0)
    except BaseException:
        engine.close()
        raise
    return engine, promised if measures else lambda tokens, shown: predicted()


def _open(
    folder: Path,
    variant: Variant | None,
    config: ServeConfig,
    setup: EngineSetup,
    cache_folder: Path,
) -> EngineProcess | Replicas:
    """As many engines as the config says, each in a process of its own, opened together."""
    count, start, nodes = config.replicas, start_here, 1
    if config.engine == "vllm" and count > 1 and config.where != "ray" and found_cards():
        raise SpecError(
            "serve.replicas: each vLLM would take this machine's first GPU",
            found=f"{count} replicas",
            expected="1 without Ray",
            do=f"serve.where: ray gives each a GPU; {VLLM_ARGUMENTS} may say --data-parallel-size",
        )
    if config.where == "ray":
        start, nodes = ray_starter(config.engine)
    each = replace(
        setup,
        max_running=-(-setup.max_running // count),
        cache_bytes=setup.cache_bytes // count,
        threads=max(1, (setup.threads or count) // -(-count // nodes)),
    )
    if count == 1:
        return EngineProcess(folder, variant, config.engine, setup, cache_folder, start)
    with ThreadPoolExecutor(count) as pool:
        opening = [
            pool.submit(EngineProcess, folder, variant, config.engine, each, cache_folder, start)
            for _ in range(count)
        ]
    failed = [error for future in opening if (error := future.exception()) is not None]
    if failed:
        for future in opening:
            if future.exception() is None:
                future.result().close()
        raise failed[0]
    return Replicas([future.result() for future in opening])


def predict_folder(
    folder: Path, variant: Variant | None, config: ServeConfig, cache_folder: Path | None = None
) -> Promise:
    """Of a model that is not loaded, by its card alone, or what was measured here before.

    cache_folder: as of `open_promised`.
    """
    card = peek_card(folder)
    setup = setup_of(card, config, engine_threads())
    served = variant or best_form(card, config.engine)
    kept = None if cache_folder is None else _kept(_kept_at(cache_folder, card, served, config))
    return kept or predict(card, served, config, setup)


def check_memory(models: Sequence[tuple[str, Path, Variant | None]], config: ServeConfig) -> int:
    """Bytes that models take at most when they are served side by side, from their cards alone.

    models: of each its name, folder and variant.

    Raises ResourceError where this machine does not have so many.
    """
    needed = 0
    for _, folder, variant in models:
        card = peek_card(folder)
        form, setup = variant or best_form(card, config.engine), setup_of(card, config, 1)
        needed += predict(card, form, config, setup, lambda: (1.0, 1.0)).memory_bytes
    there = machine_facts().memory_bytes
    if needed > there:
        raise ResourceError(
            f"{' beside '.join(name for name, *_ in models)} may not fit into memory",
            found=f"up to {format_bytes(needed)} for both",
            expected=f"at most {format_bytes(there)}, which this machine has",
            do="serve smaller variants (int8), fewer places (--set serve.max_running=1), or one",
        )
    return needed


# ------------------------------------------------------------------ predicted


def setup_of(card: FolderCard, config: ServeConfig, threads: int) -> EngineSetup:
    """How an engine is opened for a server: places for the users asked for, and a cache for them.

    The cache is of every place's whole context where that fits beside the weights.
    """
    copies = 2 if card.lookup else 1
    taken = config.replicas * (RUNTIME_BYTES + 3 * copies * card.weight_bytes)
    free = machine_facts().memory_bytes - taken
    running = max(config.max_running, config.users or 0)
    wanted = running * card.shape.max_seq_len * card.cache_bytes_per_token
    cache_bytes = int(min(wanted, max(0.0, CACHE_SHARE * free)))
    return EngineSetup(running, cache_bytes, shares_prefixes=True, threads=threads)


def predict(
    card: FolderCard,
    variant: Variant,
    config: ServeConfig,
    setup: EngineSetup,
    probe: Callable[[], tuple[float, float]] | None = None,
) -> Promise:
    """Of a model that is not loaded. probe: (operations per second, bytes per second) here."""
    flops, bandwidth = (probe or probed_rates)()
    shares = SMALL if variant.bits < 32 else F32 if variant.format == FORMAT else TORCH
    if config.engine == "vllm" and variant.bits == 32:
        shares = replace(F32, weights=TORCH.weights)
    numbers = count_shape(card.shape).matmul_active
    weight_bytes = card.weight_bytes * variant.bits / card.variant.bits
    users = setup.max_running
    one_s = card.shape.layers * shares.layer_s + weight_bytes / bandwidth
    per_user_s = 2 * numbers / (flops * shares.answering)
    step_s = one_s + users * per_user_s
    is_batched = variant.format == FORMAT or config.engine == "vllm"
    if not is_batched:  # one after another
        step_s = users * (one_s + 2 * numbers / flops)
    read_s = users * PROMPT_TOKENS * 2 * numbers / (flops * shares.reading)
    context = card.shape.max_seq_len * card.cache_bytes_per_token
    cache = setup.max_running * context
    if is_batched:
        cache = max(config.replicas * context, min(setup.cache_bytes, cache))
    copies = 1
    if card.lookup and variant == card.variant:  # a second pipeline, with room for one request
        copies, cache = 2, cache + config.replicas * context
    answer = _answer_tokens(card.shape, config)
    found = Promise(
        basis="predicted",
        users=users,
        ttft_p95_s=read_s + step_s,
        tokens_per_s_per_user=1 / step_s,
        tokens_per_s=users * answer / (read_s + answer * step_s),
        prompt_tokens=PROMPT_TOKENS,
        memory_bytes=round(
            config.replicas * (RUNTIME_BYTES + copies * shares.weights * weight_bytes) + cache
        ),
    )
    return found.model_copy(update={"missed": found.against(config)})


# ------------------------------------------------------------------ measured


def keep_promise(
    asking: Callable[[int], AbstractContextManager[Ask]],
    predicted: Callable[[], Promise],
    card: FolderCard,
    variant: Variant,
    config: ServeConfig,
    folder: Path,
) -> Promise:
    """Measured at the engine's limit and with the targets for fewer users; kept in folder.

    asking: for so many users at once, as `asked_over_http`. predicted: called where nothing is
    kept. variant: what is served, which the card's folder may not hold but be exported to.
    An engine that was measured here, while nothing else ran, is not asked. Where it cannot be
    measured that is told, and the promise is the prediction.
    """
    path = _kept_at(folder, card, variant, config)
    kept = _kept(path)
    if kept is None:
        used_percent = psutil.cpu_percent(BUSY_S)  # by others: nothing of ours runs
        guess = predicted()
        try:
            kept = _measure(asking, guess, card.shape, config)
        except (EngineError, OSError) as error:  # also where there are too few descriptors
            LOG.warning("the promise is predicted, it could not be measured: %s", error)
            return guess
        if used_percent > BUSY_PERCENT:
            return kept  # and measured again at the next start
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, kept.model_dump_json().encode())
        except Exception:  # a home that cannot be written serves as well
            return kept
    return kept


def _kept(path: Path) -> Promise | None:
    try:
        return Promise.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


def _kept_at(folder: Path, card: FolderCard, variant: Variant, config: ServeConfig) -> Path:
    """The file with what was measured of this before, whether or not it is there."""
    facts: dict[str, Any] = {
        "version": VERSION,
        "model": card.digest,
        "variant": str(variant),
        "engine": config.engine,
        "machine": machine_facts().identity,
        "places": config.max_running,
        "replicas": config.replicas,
        "answer_tokens": _answer_tokens(card.shape, config),
        "where": config.where,
        "targets": [config.users, config.ttft_p95, config.tokens_per_s_per_user],
    }
    return folder / f"promise-{digest_value(facts)[:32]}.json"


def _measure(
    asking: Callable[[int], AbstractContextManager[Ask]],
    predicted: Promise,
    shape: ModelShape,
    config: ServeConfig,
) -> Promise:
    """For as many users as there are places; half as many, and so on, while a target is missed."""
    users, found = predicted.users, None
    wanted = _answer_tokens(shape, config)
    is_long = users * wanted / predicted.tokens_per_s > LONG_S
    most = min(FEWEST_TOKENS, wanted) if is_long else wanted
    with asking(users) as ask:
        ask(_prompts(1, shape, seed=0), 2)  # what a server loads with its first request
        while True:
            prompts = _prompts(users, shape, seed=users)
            sizes = {"users": users, "prompt_tokens": len(prompts[0]), "answer_tokens": most}
            each = _of_answers(ask(prompts, most), predicted.model_copy(update=sizes), wanted)
            missed = each.against(config)
            first = each.model_copy(update={"missed": missed})
            found = found or first
            is_slow = any(not name.startswith("users ") for name in missed)
            if not is_slow:
                return first
            if users == 1:
                return found  # fewer users would not help: as many as there are places, said so
            users //= 2


def _of_answers(answers: Sequence[AnswerTimes], promise: Promise, wanted: int) -> Promise:
    """What is missing to answers of as many tokens as wanted goes on as fast as the rest did."""
    fewest = min(answer.num_tokens for answer in answers)
    if fewest < 2:
        raise EngineError("the engine gave no tokens", do="try another engine or variant")
    # from the first token of any to the last of all: those of one may come in a heap, while the
    # engine waits for a processor
    end_s = max(answer.end_s for answer in answers)
    answering_s = max(1e-9, end_s - min(answer.token_s for answer in answers))
    token_s = answering_s / (fewest - 1)
    missing = max(0, wanted - fewest)
    return promise.model_copy(
        update={
            "basis": "measured",
            "ttft_p95_s": float(np.quantile([answer.first_s for answer in answers], 0.95)),
            "tokens_per_s_per_user": 1 / token_s,
            "tokens_per_s": len(answers) * (fewest + missing) / (end_s + missing * token_s),
        }
    )


def _answer_tokens(shape: ModelShape, config: ServeConfig) -> int:
    """Of the answers that `tokens_per_s` is of; two tell a rate, whatever is allowed."""
    return max(2, min(ANSWER_TOKENS, config.max_tokens, _room(shape)))


def _room(shape: ModelShape) -> int:
    """Most tokens of an answer that is measured."""
    return max(2, shape.max_seq_len // 4)


def _prompts(users: int, shape: ModelShape, *, seed: int) -> list[tuple[int, ...]]:
    """Of random ids: no two begin alike."""
    room = max(1, shape.max_seq_len - min(ANSWER_TOKENS, _room(shape)))
    ids = np.random.default_rng(seed).integers(
        0, shape.vocab_size, (users, min(PROMPT_TOKENS, room))
    )
    return [tuple(row) for row in ids.tolist()]
