"""Engines that Ray places: through a relay without it, and on a cluster of this machine."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError, MissingExtra, SpecError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.engines.apart import EngineProcess
from whorl.engines.on_ray import Relay, RelayedChild, ray_starter
from whorl.engines.replicas import Replicas
from whorl.engines.setup import EngineSetup
from whorl.servable import Servable
from whorl.serving import open_model_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.server import running_server

SETUP = EngineSetup(8, threads=1)
KEY = "k" * 16


class RayError(Exception):
    pass


class GetTimeoutError(Exception):
    pass


class FakeRay:
    """`get` and `kill` of actors whose methods run in threads of this process, in order."""

    exceptions = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)

    def __init__(self) -> None:
        self.relays: list[Relay] = []

    def start(self) -> RelayedChild:
        relay = Relay()
        self.relays.append(relay)
        names = ("pid", "write", "take", "end", "wait")
        calls = {name: SimpleNamespace(remote=partial(self._call, relay, name)) for name in names}
        return RelayedChild(self, SimpleNamespace(relay=relay, **calls))

    def _call(self, relay: Relay, name: str, *arguments: Any) -> Any:
        if name in ("write", "end"):
            return getattr(relay, name)(*arguments)
        future: Future[Any] = Future()
        work = lambda: future.set_result(getattr(relay, name)(*arguments))  # noqa: E731
        threading.Thread(target=work, daemon=True).start()
        return future

    def get(self, future: Future[Any], timeout: float | None = None) -> Any:
        try:
            return future.result(timeout)
        except FutureTimeout as error:
            raise GetTimeoutError from error

    def kill(self, actor: Any) -> None:
        if psutil.pid_exists(actor.relay.pid()):
            actor.relay._child.kill()


def check_answers(
    start: Callable[[], Any], folders: Path, expected: Engine, prompts: list[tuple[int, ...]]
) -> None:
    """The same answers, errors and scores as of an engine here; dies, and is started again."""
    requests = [GenerateRequest(f"r{i}", prompts[i], 20) for i in range(12)]
    wanted = [answer.token_ids for answer in run_requests(expected, requests)]
    engine = EngineProcess(folders / "f32", None, "auto", SETUP, start=start)
    try:
        assert [answer.token_ids for answer in run_requests(engine, requests)] == wanted
        with pytest.raises(EngineError, match="too long"):
            run_requests(engine, [GenerateRequest("long", (5,) * 300, 4)])
        events: list[TokenEvent] = []
        ended = threading.Event()

        def on_event(event: TokenEvent) -> None:
            events.append(event)
            if event.finish_reason is not None:
                ended.set()

        engine.submit(GenerateRequest("lost", prompts[0], 200), on_event)
        first = engine.pid
        psutil.Process(first).kill()
        assert ended.wait(30) and events[-1].finish_reason == "error"
        end_s = time.monotonic() + 60
        while not (engine.is_up and engine.pid != first) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert [answer.token_ids for answer in run_requests(engine, requests)] == wanted
        last = engine.pid
    finally:
        engine.close()
    end_s = time.monotonic() + 10
    while psutil.pid_exists(last) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not psutil.pid_exists(last)


def test_a_relay_carries_what_an_engine_says(
    folders: Path, openvino_engine: Engine, prompts: list[tuple[int, ...]]
) -> None:
    check_answers(FakeRay().start, folders, openvino_engine, prompts)


def test_a_relay_of_an_engine_that_cannot_be_opened(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="torch does not serve openvino f32"):
        EngineProcess(folders / "f32", None, "torch", SETUP, start=FakeRay().start)
    child = FakeRay().start()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)
    child.stdin.write("no JSON\n")
    assert child.stdout.readline() == "" and child.wait(10) == 1


@pytest.mark.parametrize("died", [RayError("the actor died"), GetTimeoutError("no room")])
def test_a_relay_that_dies_as_it_starts_is_an_error_and_is_killed(died: Exception) -> None:
    class Dying(FakeRay):
        killed: Any = None

        def get(self, future: Future[Any], timeout: float | None = None) -> Any:
            raise died

        def available_resources(self) -> dict[str, float]:
            return {}

        def kill(self, actor: Any) -> None:
            self.killed = actor

    ray, actor = Dying(), SimpleNamespace(pid=SimpleNamespace(remote=Future[int]))
    with pytest.raises(EngineError, match=r"no node of the cluster|the cluster started no engine"):
        RelayedChild(ray, actor)
    assert ray.killed is actor


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.core.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"--where ray.*whorl\[ray\]"):
        ray_starter("auto")


# ------------------------------------------------------------------ with Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One of this machine alone."""
    if find_spec("ray") is None:
        pytest.skip("Ray (extra ray) is not installed")
    import ray

    ray_starter("auto")
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("default")
def test_on_a_cluster(
    cluster: None, folders: Path, openvino_engine: Engine, prompts: list[tuple[int, ...]]
) -> None:
    start, nodes = ray_starter("auto")
    assert nodes == 1
    ours = {each.pid for each in (psutil.Process(), *psutil.Process().children(recursive=True))}
    reached = {
        each.laddr.ip.removeprefix("::ffff:")
        for each in psutil.net_connections("tcp")
        if each.pid in ours and each.status == psutil.CONN_LISTEN
    }
    assert reached == {"127.0.0.1"}  # nobody else's machine gets to it
    check_answers(start, folders, openvino_engine, prompts)


@pytest.mark.filterwarnings("default")
def test_a_server_with_two_replicas_on_a_cluster(
    cluster: None, folders: Path, tmp_path: Path
) -> None:
    config = ServeConfig(port=0, where="ray", replicas=2, max_running=4)
    app, close = open_model_app(
        Servable("tiny", folders / "f32", None), config, KEY, home=tmp_path / "home"
    )
    try:
        engine = app.state.gateway.served.engine
        assert isinstance(engine, Replicas)
        assert len({each.pid for each in engine._engines}) == 2  # type: ignore[attr-defined]
        with running_server(app, config) as url:
            headers = {"Authorization": f"Bearer {KEY}"}
            body = {"model": "tiny", "prompt": "a shell", "max_tokens": 4, "temperature": 0}
            answers = [
                httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)
                for _ in range(4)
            ]
            assert {each.status_code for each in answers} == {200}
            assert len({each.json()["choices"][0]["text"] for each in answers}) == 1
    finally:
        close()
