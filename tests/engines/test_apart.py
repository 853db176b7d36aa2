"""An engine in another process: the same answers, and a death that its requests survive to hear."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.children import EARLY, start_early
from whorl.core.collect import run_requests
from whorl.core.errors import EngineError, RecordError, SpecError
from whorl.core.ports import Engine, GenerateRequest, Grammar, TokenEvent
from whorl.engines.answering import _end_with
from whorl.engines.apart import EngineProcess, start_here
from whorl.engines.setup import EngineSetup


@pytest.fixture(scope="module")
def apart(folders: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(folders / "f32", None, "auto", EngineSetup(8, threads=1))
    yield engine
    engine.close()


def test_the_same_answers_and_scores(
    apart: EngineProcess, openvino_engine: Engine, prompts: list[tuple[int, ...]]
) -> None:
    assert isinstance(apart, Engine) and apart.name == "openvino"
    assert apart.reads_singles_once  # as openvino says
    assert apart.unable == openvino_engine.unable  # grammars, where their package is missing
    requests = [GenerateRequest(f"r{i}", prompts[i], 20) for i in range(12)]
    expected = [answer.token_ids for answer in run_requests(openvino_engine, requests)]
    assert [answer.token_ids for answer in run_requests(apart, requests)] == expected
    rows = [list(ids) for ids in prompts[:5]]
    for found, wanted in zip(apart.score(rows), openvino_engine.score(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    for found, wanted in zip(
        apart.score(rows, prompts[9]), openvino_engine.score(rows, prompts[9]), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert apart.stats().running == 0


def test_a_process_that_was_begun_early_is_the_first(
    folders: Path, prompts: list[tuple[int, ...]]
) -> None:
    start_early("whorl.engines.answering:answer_soon")
    early = next(iter(EARLY.values())).pid
    engines = [EngineProcess(folders / "f32", None, "auto", EngineSetup(1)) for _ in range(2)]
    assert engines[0].pid == early != engines[1].pid
    requests = [GenerateRequest("r", prompts[0], 5)]
    first, second = (run_requests(engine, requests)[0].token_ids for engine in engines)
    assert first == second and len(first) == 5
    for engine in engines:
        engine.close()


def test_of_one_that_has_ended_nobody_is_asked(folders: Path) -> None:
    start_early("whorl.engines.answering:answer_soon")
    child = next(iter(EARLY.values()))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    engine = EngineProcess(folders / "hf", None, "torch", EngineSetup(1))
    assert engine.is_up and engine.pid != child.pid
    engine.close()


def test_one_that_cannot_load_what_it_may_not_need_waits_for_its_first_line() -> None:
    """An OpenVINO that is broken, say, where the model is for torch. Nobody asks it here."""
    code = "from whorl.engines.answering import answer; answer(lambda: 1 / 0)"
    done = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_field_arrives(
    apart: EngineProcess, tokens: Tokens, prompts: list[tuple[int, ...]]
) -> None:
    pytest.importorskip("xgrammar")
    request = GenerateRequest(
        "all",
        prompts[0],
        40,
        temperature=0.9,
        top_p=0.9,
        seed=3,
        stop_ids=tuple(tokens.contract.stop_ids),
        top_k=50,
        logit_bias=((40, -3.5), (41, 2.0)),
        logprobs=2,
        grammar=Grammar("regex", "[a-c]+é?x"),
        cache_key="a",
    )
    events: list[TokenEvent] = []
    ended = threading.Event()

    def on_event(event: TokenEvent) -> None:
        events.append(event)
        if event.finish_reason:
            ended.set()

    apart.submit(request, on_event)
    assert ended.wait(30) and events[-1].finish_reason in ("stop", "length")
    assert all(len(event.logprobs[0].top) == 2 for event in events if event.token_ids)
    bad = GenerateRequest("bad", prompts[0], 4, grammar=Grammar("regex", "("), stop_ids=(1,))
    with pytest.raises(EngineError, match="regex cannot be used"):
        run_requests(apart, [bad])
    with pytest.raises(EngineError, match="too long"):
        run_requests(apart, [GenerateRequest("long", prompts[0], 10_000)])


def test_a_request_of_which_nothing_can_be_made_ends(
    apart: EngineProcess, prompts: list[tuple[int, ...]]
) -> None:
    """Half a sign is no UTF-8: neither the pipe nor xgrammar takes it."""
    pytest.importorskip("xgrammar")
    half = GenerateRequest("half", prompts[0], 4, grammar=Grammar("regex", "\ud800"))
    with pytest.raises(EngineError, match="surrogate"):
        run_requests(apart, [half], timeout_s=20)
    assert run_requests(apart, [GenerateRequest("whole", prompts[0], 4)])[0].token_ids


def test_nobody_waits_for_a_full_pipe(apart: EngineProcess, prompts: list[tuple[int, ...]]) -> None:
    """A long request is written to a process that does not read; the others go on."""
    rows = [list(prompts[0])] * 5_000  # more than a pipe holds
    os.kill(apart.pid, signal.SIGSTOP)
    try:
        writing = threading.Thread(target=apart.score, args=(rows,), daemon=True)
        writing.start()
        writing.join(0.5)
        asking = threading.Thread(target=apart.stats, daemon=True)
        asking.start()
        asking.join(5)
        assert writing.is_alive() and not asking.is_alive()
    finally:
        os.kill(apart.pid, signal.SIGCONT)
    writing.join(60)
    assert not writing.is_alive()


def test_what_cannot_be_opened_says_so_here(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not a model folder"):
        EngineProcess(tmp_path, None, "auto", EngineSetup(1))
    with pytest.raises(SpecError, match="torch does not serve"):
        EngineProcess(folders / "f32", None, "torch", EngineSetup(1))


def test_a_killed_engine_is_started_again(folders: Path, prompts: list[tuple[int, ...]]) -> None:
    engine = EngineProcess(folders / "f32", None, "auto", EngineSetup(2, threads=1))
    expected = run_requests(engine, [GenerateRequest("x", prompts[0], 30)])[0].token_ids
    first, events, ended = engine.pid, list[TokenEvent](), threading.Event()

    def on_event(event: TokenEvent) -> None:
        events.append(event)
        if len(events) == 1:
            os.kill(first, signal.SIGKILL)
        if event.finish_reason:
            ended.set()

    engine.submit(GenerateRequest("y", prompts[0], 200), on_event)
    assert ended.wait(20)
    assert events[-1].finish_reason == "error" and "ended" in (events[-1].error or "")
    deadline = time.monotonic() + 30
    while not engine.is_up and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.pid != first
    assert run_requests(engine, [GenerateRequest("x", prompts[0], 30)])[0].token_ids == expected
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit(GenerateRequest("z", prompts[0], 3), on_event)


def test_one_that_dies_again_and_again_says_that_it_stopped(
    folders: Path, prompts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.engines.apart.MAX_STARTS", 1)
    engine = EngineProcess(folders / "hf", None, "torch", EngineSetup(1))
    reader = engine._reader
    os.kill(engine.pid, signal.SIGKILL)
    reader.join(20)
    for refused in (
        lambda: engine.submit(GenerateRequest("x", prompts[0], 3), lambda event: None),
        lambda: engine.score([[1, 2]]),
    ):
        with pytest.raises(EngineError, match=r"the engine stopped; found: .*code -9"):
            refused()
    engine.close()


def test_one_that_cannot_be_started_again_says_why(
    folders: Path, prompts: list[tuple[int, ...]]
) -> None:
    """Whatever it is that a cluster raises."""
    starts = iter([start_here])
    engine = EngineProcess(
        folders / "hf", None, "torch", EngineSetup(1), start=lambda: next(starts)()
    )
    reader = engine._reader
    os.kill(engine.pid, signal.SIGKILL)
    reader.join(20)
    with pytest.raises(EngineError, match=r"the engine stopped; found: .*code -9.*StopIteration"):
        engine.submit(GenerateRequest("x", prompts[0], 3), lambda event: None)
    engine.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_an_engine_that_stops_is_closed_before_its_process_ends(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    did: list[object] = []

    class Stopped:
        failure = "it died"

        def close(self) -> None:
            did.append("closed")
            threading.Event().wait(20 if hangs else 0)

    monkeypatch.setattr("whorl.engines.answering.os._exit", did.append)
    monkeypatch.setattr("whorl.engines.answering.CLOSE_TIMEOUT_S", 0.1)
    begin_s = time.monotonic()
    _end_with(Stopped())
    assert did == ["closed", 1] and time.monotonic() - begin_s < 5


def test_it_ends_with_whoever_started_it(folders: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, sys; from pathlib import Path; from whorl.engines.apart import EngineProcess;"
        "from whorl.engines.setup import EngineSetup;"
        f"e = EngineProcess(Path({str(folders / 'f32')!r}), None, 'auto', EngineSetup(1));"
        "print(e.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_two_processes_as_one_and_a_killed_one(
    folders: Path, prompts: list[tuple[int, ...]]
) -> None:
    """Requests that wait in the process that is killed are answered by the other."""
    from whorl.engines.replicas import Replicas

    setup = EngineSetup(1, threads=1)
    engines = [EngineProcess(folders / "f32", None, "auto", setup) for _ in range(2)]
    together = Replicas(engines)
    assert together.reads_singles_once
    requests = [GenerateRequest(f"q{i}", prompts[i], 100) for i in range(8)]
    expected = [answer.token_ids for answer in run_requests(together, requests)]
    ends: dict[str, TokenEvent] = {}
    ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
    done = threading.Semaphore(0)

    def on_event(event: TokenEvent) -> None:
        ids[event.request_id] += event.token_ids
        if event.finish_reason is not None:
            ends[event.request_id] = event
            done.release()

    for request in requests:
        together.submit(request, on_event)
    os.kill(engines[0].pid, signal.SIGKILL)
    assert all(done.acquire(timeout=30) for _ in requests)
    failed = [name for name, event in ends.items() if event.finish_reason == "error"]
    assert len(failed) <= 1 and len(ends) == 8  # the one that was being answered, if any
    for request, wanted in zip(requests, expected, strict=True):
        if request.request_id not in failed:
            assert ids[request.request_id] == wanted
    together.close()
