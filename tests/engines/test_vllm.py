"""vLLM as an engine, against a fake that speaks as vLLM documents; and, where there is a real one
(WHORL_VLLM_PYTHON), against the torch engine."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.errors import EngineError, MissingExtra, SpecError
from whorl.core.ports import Engine, GenerateRequest, Grammar, TokenEvent
from whorl.engines.apart import EngineProcess
from whorl.engines.open import open_engine
from whorl.engines.setup import EngineSetup
from whorl.engines.vllm_engine import VllmEngine
from whorl.stages.serve.errors import is_grammar_fault
from whorl.testing.models import tiny_model_folder

REAL = os.environ.get("WHORL_VLLM_PYTHON")
FAKE = Path(__file__).parent / "fake_vllm"
SETUP = EngineSetup(4, threads=1, shares_prefixes=True)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """WHORL_VLLM_PYTHON is an environment with the fake; the log of what it is sent."""
    python, log = tmp_path / "python", tmp_path / "log"
    words = [f"PYTHONPATH={FAKE}", f"FAKE_VLLM_LOG={log}", sys.executable]
    python.write_text(f'#!/bin/sh\nexec env {shlex.join(words)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("WHORL_VLLM_PYTHON", str(python))
    return log


@pytest.fixture
def engine(fake: Path, folders: Path) -> Iterator[VllmEngine]:
    found = open_engine(folders / "hf", name="vllm", setup=SETUP)
    assert isinstance(found, VllmEngine) and isinstance(found, Engine)
    yield found
    found.close()


def bodies(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()][1:]


class Listener(list[TokenEvent]):
    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def __call__(self, event: TokenEvent) -> None:
        self.append(event)
        if event.finish_reason is not None:
            self.ended.set()


def test_every_field_is_asked_in_its_words(
    engine: VllmEngine, fake: Path, folders: Path, tokens: Tokens
) -> None:
    (started,) = [json.loads(line) for line in fake.read_text().splitlines()]
    said = dict(zip(started["argv"][::2], started["argv"][1::2], strict=False))
    assert said["--model"] == str(folders / "hf") and said["--dtype"] == "float32"
    assert said["--max-model-len"] == "256" and said["--max-num-seqs"] == "4"
    assert "--enable-prefix-caching" in started["argv"]
    request = GenerateRequest(
        "all",
        (3, 4, 5),
        7,
        temperature=0.9,
        top_p=0.8,
        seed=3,
        stop_ids=(9, 300),
        allowed_ids=(6, 7, 8, 9),
        top_k=50,
        min_p=0.05,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.3,
        logit_bias=((40, -3.5), (41, 2.0)),
        logprobs=2,
        cache_key="alice",
    )
    (answer,) = run_requests(engine, [request])
    assert answer.token_ids == [6, 7, 8, 9] and answer.finish_reason == "stop"
    (body,) = bodies(fake)
    assert body == {
        "model": said["--served-model-name"],
        "prompt": [3, 4, 5],
        "max_tokens": 7,
        "stream": True,
        "temperature": 0.9,
        "top_p": 0.8,
        "top_k": 50,
        "min_p": 0.05,
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.3,
        "stop_token_ids": [9, 300],
        "ignore_eos": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "allowed_token_ids": [6, 7, 8, 9],
        "logit_bias": {"40": -3.5, "41": 2.0},
        "logprobs": 2,
        "cache_salt": "alice",
    }


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        (Grammar("json_schema", '{"type": "object"}'), {"json": '{"type": "object"}'}),
        (Grammar("regex", "[a-c]+"), {"regex": "[a-c]+"}),
        (Grammar("ebnf", 'root ::= "a"'), {"grammar": 'root ::= "a"'}),
    ],
)
def test_grammars_are_its_structured_outputs(
    engine: VllmEngine, fake: Path, grammar: Grammar, expected: dict[str, str]
) -> None:
    run_requests(engine, [GenerateRequest("g", (3,), 2, grammar=grammar)])
    (body,) = bodies(fake)
    assert body["structured_outputs"] == expected and not body["ignore_eos"]


def test_answers_logprobs_and_scores_arrive(engine: VllmEngine) -> None:
    listener = Listener()
    engine.submit(GenerateRequest("a", (10,), 3, logprobs=1), listener)
    assert listener.ended.wait(10)
    assert [event.token_ids for event in listener] == [(11,), (12,), (13,)]
    assert listener[-1].finish_reason == "length"
    first = listener[0].logprobs[0]
    assert (first.token_id, first.logprob, first.top) == (11, -0.11, ((11, -0.11),))
    rows = [[5, 6, 7], [8], [], list(range(256))]
    scores = engine.score(rows)
    for row, found in zip(rows, scores, strict=True):
        np.testing.assert_allclose(found, [-i / 100 for i in row[1:]])
    after = engine.score(rows[:3], (1, 2))
    for row, found in zip(rows, after, strict=False):
        np.testing.assert_allclose(found, [-i / 100 for i in row])
    with pytest.raises(EngineError, match="too long"):
        engine.score([list(range(257))])


@pytest.mark.parametrize("is_old", [False, True])
def test_single_candidates_are_told_by_few_answers(
    fake: Path, folders: Path, monkeypatch: pytest.MonkeyPatch, is_old: bool
) -> None:
    """The prefix is not scored again with each; a vLLM that tells one id at a time is asked so."""
    if is_old:
        monkeypatch.setenv("FAKE_VLLM_OLD", "1")
    engine = open_engine(folders / "hf", name="vllm", setup=SETUP)
    rows = [*([i] for i in range(20, 220)), [7, 8], [20], []]
    try:
        scores = engine.score(rows, (1, 2, 3))
        again = engine.score([[5]], tuple([1, 2, 3]))  # noqa: C409 - an equal one of another's
    finally:
        engine.close()
    for row, found in zip([*rows, [5]], [*scores, *again], strict=True):
        np.testing.assert_allclose(found, [-i / 100 for i in row])
    asked = bodies(fake)
    singles = [body for body in asked if body["prompt"] == [1, 2, 3]]
    assert len(asked) == len(singles) + 1 and not any("prompt_logprobs" in one for one in singles)
    assert len(singles) == (2 + 198 if is_old else 2) + 1
    salts = [body["cache_salt"] for body in singles]
    assert len(set(salts[:-1])) == 1 and salts[-1] != salts[0]  # nobody sees what another asked


def test_candidates_of_several_ids_share_a_long_prefix_in_the_cache(
    fake: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM reads a prompt whole, whatever is cached, where its log-probabilities are asked for."""
    monkeypatch.setenv("FAKE_VLLM_BEFORE", "1")
    monkeypatch.setattr("whorl.engines.vllm_scores.BLOCK_TOKENS", 16)
    prefix = tuple(range(100, 200))
    rows = [[7, 8, 9], [7, 8, 3], [7, 4], [5], [6, 1, 2, 3], [], [5, 5]]
    engine = open_engine(folders / "hf", name="vllm", setup=SETUP)
    try:
        scores = engine.score(rows, prefix)
        engine.score(rows[:1], prefix)  # another piece of the same question
        engine.score(rows[:1], tuple(prefix[:50]))
        short = engine.score(rows[:3], (1, 2))
    finally:
        engine.close()
    for found, begin in ((scores, 199), (short, 2)):
        for row, values in zip(rows, found, strict=False):
            before = [begin, *row[:-1]]
            np.testing.assert_allclose(
                values, [-i / 100 - b for i, b in zip(row, before, strict=False)]
            )
    asked = bodies(fake)
    after = [tuple(body["prompt"][100:]) for body in asked if len(body["prompt"]) >= 100]
    first, other = after[:7], after[7:]
    assert first[0] == () and sorted(first) == [(), (5,), (6,), (6, 1), (6, 1, 2), (7,), (7, 8)]
    assert sorted(other) == [(), (7,), (7, 8)]
    assert all("prompt_logprobs" not in each for each in asked[:-3])
    assert all("prompt_logprobs" in each for each in asked[-3:])  # that is cheaper there
    salts = [each["cache_salt"] for each in asked[:-3]]
    assert len(set(salts[:10])) == 1 and len(set(salts[10:])) == 1 and salts[0] != salts[10]


def test_a_score_that_fails_ends_the_others(engine: VllmEngine, fake: Path) -> None:
    begin_s = time.monotonic()
    with pytest.raises(EngineError, match="an unlucky number"):
        engine.score([[7, 13, 1], *([7, 14, i] for i in range(60))])
    assert time.monotonic() - begin_s < 0.9  # the slow ones take a second
    np.testing.assert_allclose(engine.score([[5]], (1, 2))[0], [-0.05])
    assert len(bodies(fake)) < 20


@pytest.mark.parametrize("text", ["(", ")"])
def test_a_grammar_that_vllm_refuses_is_the_askers_fault(engine: VllmEngine, text: str) -> None:
    """Also where whorl has no xgrammar to find it first: by status, or in the stream."""
    engine._check = None
    listener, other = Listener(), Listener()
    grammar = Grammar("regex", text)
    engine.submit(GenerateRequest("bad", (3,), 4, grammar=grammar), listener)
    engine.submit(GenerateRequest("other", (3,), 4, seed=500, grammar=grammar), other)
    assert listener.ended.wait(10) and is_grammar_fault(listener[-1].error or "")
    assert "no regex" in str(listener[-1].error)
    if text == ")":  # there it fails of something else first
        assert other.ended.wait(10) and not is_grammar_fault(other[-1].error or "")


def test_requests_that_do_not_end_keep_no_vllm_open(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine, "_emptied", never)
    monkeypatch.setattr("whorl.engines.vllm_engine.CLOSE_TIMEOUT_S", 0.2)
    engine.close()
    assert not psutil.pid_exists(engine._server.pid)


def test_a_stranger_on_the_port_is_not_taken_for_ours(
    fake: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_NAME", "somebody else's")
    with pytest.raises(EngineError, match=r"another server than ours.*the model model-"):
        open_engine(folders / "hf", name="vllm")


def test_more_than_it_has_places_for_wait(engine: VllmEngine) -> None:
    listeners = [Listener() for _ in range(12)]
    for i, listener in enumerate(listeners):
        engine.submit(GenerateRequest(f"r{i}", (i,), 30), listener)
    time.sleep(0.1)
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (4, 8) and stats.last_token_age_s is not None
    engine.cancel("r11")  # which waits
    engine.cancel("r0")  # which runs
    engine.cancel("nobody")
    for i in (0, 11):
        assert listeners[i].ended.wait(0.2) and listeners[i][-1].finish_reason == "cancelled"
    with pytest.raises(EngineError, match="running already"):
        engine.submit(GenerateRequest("r1", (1,), 1), Listener())
    for i in range(1, 11):
        assert listeners[i].ended.wait(10) and listeners[i][-1].finish_reason == "length"
        assert [n for event in listeners[i] for n in event.token_ids] == list(range(i + 1, i + 31))
    assert engine.stats().running == 0 == engine.stats().waiting


def test_what_it_says_of_a_failure_is_told(engine: VllmEngine, tokens: Tokens) -> None:
    for seed, words in ((400, "seed: not today"), (500, "a stack trace")):
        listener = Listener()
        engine.submit(GenerateRequest("bad", (3,), 4, seed=seed), listener)
        assert listener.ended.wait(10) and listener[-1].finish_reason == "error"
        assert words in str(listener[-1].error)
    with pytest.raises(EngineError, match="max_tokens is too small"):
        engine.submit(GenerateRequest("none", (3,), 0), Listener())

    def fails(event: TokenEvent) -> None:
        raise RuntimeError("listener")

    engine.submit(GenerateRequest("deaf", (3,), 200), fails)
    assert len(run_requests(engine, [GenerateRequest("good", (3,), 4)])[0].token_ids) == 4
    assert engine.stats().running == 0


def test_its_death_ends_what_runs_and_is_told(engine: VllmEngine, fake: Path) -> None:
    listener, other = Listener(), Listener()
    engine.submit(GenerateRequest("other", (3,), 250), other)
    engine.submit(GenerateRequest("fatal", (3,), 4, seed=666), listener)
    for each in (listener, other):
        assert each.ended.wait(10) and each[-1].finish_reason == "error"
    end_s = time.monotonic() + 5
    while engine.failure is None and time.monotonic() < end_s:
        time.sleep(0.02)
    assert "code 3" in str(engine.failure)
    with pytest.raises(EngineError, match="the engine stopped"):
        engine.submit(GenerateRequest("late", (3,), 4), Listener())


def test_it_ends_with_the_engine_that_started_it(fake: Path, folders: Path) -> None:
    """Also where that one is killed, and is started again."""
    engine = EngineProcess(folders / "hf", None, "vllm", SETUP)
    try:
        first = json.loads(fake.read_text().splitlines()[0])["pid"]
        assert run_requests(engine, [GenerateRequest("a", (3,), 2)])[0].token_ids == [4, 5]
        psutil.Process(engine.pid).kill()
        end_s = time.monotonic() + 30
        while (psutil.pid_exists(first) or not engine.is_up) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert not psutil.pid_exists(first)
        assert run_requests(engine, [GenerateRequest("b", (3,), 2)])[0].token_ids == [4, 5]
        second = json.loads(fake.read_text().splitlines()[0])["pid"]
    finally:
        engine.close()
    assert not psutil.pid_exists(second)


def test_a_folder_that_it_refuses(
    fake: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_REFUSES", "1")
    with pytest.raises(EngineError, match="PaintModel is no architecture of mine"):
        open_engine(folders / "hf", name="vllm")


def test_where_there_is_none(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHORL_VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(SpecError, match=r"WHORL_VLLM_PYTHON.*/nowhere/python"):
        open_engine(folders / "hf", name="vllm")
    monkeypatch.delenv("WHORL_VLLM_PYTHON")
    if subprocess.run([sys.executable, "-c", "import vllm"], capture_output=True).returncode:
        with pytest.raises(MissingExtra, match="WHORL_VLLM_PYTHON"):
            open_engine(folders / "hf", name="vllm")


@pytest.mark.slow
def test_a_real_one_says_what_the_torch_engine_says(
    tmp_path: Path, prompts: list[tuple[int, ...]]
) -> None:
    """Its CPU kernels want heads of 32 at least."""
    if not REAL:
        pytest.skip("WHORL_VLLM_PYTHON names no Python with vLLM")
    folder = tiny_model_folder(tmp_path / "hf", head_dim=64)
    reference = open_engine(folder, name="torch", setup=SETUP)
    requests = [
        GenerateRequest(f"r{i}", ids, 20, cache_key="a" * (i % 2), logprobs=2)
        for i, ids in enumerate(prompts)
    ]
    rows = [*prompts[:8], [i % 200 for i in range(256)]]
    engine = open_engine(folder, name="vllm", setup=SETUP)
    try:
        found = run_requests(engine, requests, timeout_s=600.0)
        wanted = run_requests(reference, requests)
        assert [each.token_ids for each in found] == [each.token_ids for each in wanted]
        for ours, theirs in zip(engine.score(rows), reference.score(rows), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        after = [[i] for i in range(200)] + [list(prompts[3])]
        for ours, theirs in zip(
            engine.score(after, prompts[2]), reference.score(after, prompts[2]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        bad = replace(requests[0], grammar=Grammar("regex", "("), stop_ids=(1,), request_id="bad")
        engine._check = None  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="this regex cannot be used"):
            run_requests(engine, [bad])
        (stopped,) = run_requests(
            engine, [replace(requests[0], stop_ids=(wanted[0].token_ids[5],), request_id="s")]
        )
        assert stopped.finish_reason == "stop"
        assert stopped.token_ids[-1] == wanted[0].token_ids[5]
    finally:
        engine.close()
        reference.close()
