"""Engines on the nodes of a Ray cluster: Ray places the processes, whorl's own lines go between.

A relay (an actor) on a node starts there what `apart` starts here. The model's folder must lie
under the same path on every node, and whorl must be installed there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from whorl.core.children import Child
from whorl.core.errors import EngineError, MissingExtra
from whorl.engines.apart import start_here

__all__ = ["Relay", "RelayedChild", "ray_starter"]

START_S = 60.0  # for a node with room
TAKE_S = 1.0  # a question waits so long for a line
CPUS = 0.5  # asked of Ray, so that the next version finds room beside this one
PURPOSE = "--where ray"


class Relay:
    """On a node: the engine's process, and what it said and has not been asked for yet."""

    def __init__(self, start: Callable[[], Child] = start_here) -> None:
        self._child = start()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="whorl-relay", daemon=True).start()

    def pid(self) -> int:
        return self._child.pid

    def write(self, data: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ended: who takes hears of it
            self._child.stdin.write(data)
            self._child.stdin.flush()

    def take(self) -> tuple[list[str], bool]:
        """Lines, at least one if one comes soon; whether they were the last."""
        found: list[str] = []
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=TAKE_S)
            while line is not None:
                found.append(line)
                line = self._lines.get_nowait()
            return found, True
        return found, False

    def end(self) -> None:
        """No more is written."""
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.close()

    def wait(self) -> int:
        code = self._child.wait()
        self.end()
        return code

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._child.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)


class RelayedChild:
    """core.children.Child over a relay's actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        try:
            self._pid: int = ray.get(actor.pid.remote(), timeout=START_S)
        except ray.exceptions.GetTimeoutError as error:
            ray.kill(actor)
            found = f"{ray.available_resources()} left after {START_S:.0f} s"
            raise EngineError(
                "no node of the cluster has room for an engine", found=found
            ) from error
        except ray.exceptions.RayError as error:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)
            raise EngineError("the cluster started no engine", found=error) from error
        self.stdin, self.stdout = _Input(actor), _Output(ray, actor)

    @property
    def pid(self) -> int:
        """On its node."""
        return self._pid

    def wait(self, timeout: float | None = None) -> int:
        try:
            code: int = self._ray.get(self._actor.wait.remote(), timeout=timeout)
        except self._ray.exceptions.GetTimeoutError as error:
            raise subprocess.TimeoutExpired("an engine elsewhere", timeout or 0.0) from error
        except self._ray.exceptions.RayError:
            return -1  # its node, or the relay, is gone
        self.kill()
        return code

    def kill(self) -> None:
        self._ray.kill(self._actor)  # its child ends with it


class _Input:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def write(self, data: str) -> None:
        self._actor.write.remote(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._actor.end.remote()


class _Output:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._lines = self._take()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def readline(self) -> str:
        return next(self._lines, "")

    def close(self) -> None:
        pass

    def _take(self) -> Iterator[str]:
        is_last = False
        while not is_last:
            try:
                lines, is_last = self._ray.get(self._actor.take.remote())
            except self._ray.exceptions.RayError:
                return  # its node, or the relay, is gone
            yield from lines


def ray_starter(engine: str) -> tuple[Callable[[], Child], int]:
    """What starts an engine's process somewhere in the cluster, and the number of its nodes.

    The cluster is that of RAY_ADDRESS, or the one that runs here; without any, one of this machine
    alone is started. vLLM gets a GPU where there are some. Raises MissingExtra without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    MissingExtra.check("ray", "ray", PURPOSE)
    ray = importlib.import_module("ray")
    if not ray.is_initialized():
        _join_or_start(ray)
    gpus = 1 if engine == "vllm" and ray.cluster_resources().get("GPU") else 0
    actors = ray.remote(
        num_cpus=CPUS,
        num_gpus=gpus,
        scheduling_strategy="SPREAD",
        concurrency_groups={"ask": 1, "tell": 1, "wait": 1},
    )(_grouped(ray))
    start = functools.partial(_start, ray, actors)
    return start, max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


def _join_or_start(ray: Any) -> None:
    """A cluster that is there, else one of this machine that nobody else can reach."""
    told: dict[str, Any] = {"log_to_driver": False, "namespace": "whorl"}
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", **told)
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):
            raise
        # else Ray puts the address that others reach in the place of the loopback's
        constants: Any = importlib.import_module("ray._private.ray_constants")
        constants.ENABLE_RAY_CLUSTER = False
        told |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(address="local", **told)


def _start(ray: Any, actors: Any) -> Child:
    return RelayedChild(ray, actors.remote())


def _grouped(ray: Any) -> type:
    """A relay whose questions, orders and end have a thread each; orders stay in order."""

    class OnNode(Relay):
        take = ray.method(concurrency_group="ask")(Relay.take)
        write = ray.method(concurrency_group="tell")(Relay.write)
        end = ray.method(concurrency_group="tell")(Relay.end)
        wait = ray.method(concurrency_group="wait")(Relay.wait)

    return OnNode
