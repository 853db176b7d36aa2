"""For every test: a home folder of its own, and no network beyond this machine."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any library reads them: tests never ask a hub, and draw no windows.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("whorl", deadline=None)  # wall time on a shared machine proves nothing
settings.load_profile("whorl")


class NetworkForbidden(RuntimeError):
    """A test tried to leave this machine. Not an OSError, so that no library retries."""


def _refuse_unless_local(host: object) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        is_local = ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        is_local = False
    if not is_local and name not in ("0.0.0.0", "::"):
        raise NetworkForbidden(f"tests use no network; found: {name}; mark the test `network`")


def _guard(function: Callable[..., Any], address_at: int) -> Callable[..., Any]:
    """`function` with the address in its positional argument `address_at` looked at first."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        address = args[address_at] if len(args) > address_at else kwargs.get("host")
        if not (args and isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX):
            _refuse_unless_local(address[0] if isinstance(address, tuple) else address)
        return function(*args, **kwargs)

    return guarded


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback and Unix sockets work; anything else raises NetworkForbidden."""
    if request.node.get_closest_marker("network"):
        return
    monkeypatch.setattr(socket.socket, "connect", _guard(socket.socket.connect, 1))
    monkeypatch.setattr(socket.socket, "connect_ex", _guard(socket.socket.connect_ex, 1))
    monkeypatch.setattr(socket, "getaddrinfo", _guard(socket.getaddrinfo, 0))


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """WHORL_HOME in the test's own folder, so that no test sees or leaves a record."""
    home = tmp_path / "home"
    monkeypatch.setenv("WHORL_HOME", str(home))
    return home


@pytest.fixture
def trials() -> Callable[[int], int]:
    """Number of trials of a randomised test: the default count times WHORL_TRIALS."""
    factor = float(os.environ.get("WHORL_TRIALS") or 1)
    return lambda count: max(1, round(count * factor))


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Makes warnings of loggers reach caplog, also where a library has set the level of all
    logging, or switched off what it met."""

    def heard(*logs: logging.Logger) -> None:
        for log in logs:
            caplog.set_level(logging.WARNING, log.name)
            monkeypatch.setattr(log, "disabled", False)
        monkeypatch.setattr(logging.getLogger("whorl"), "propagate", True)

    return heard
