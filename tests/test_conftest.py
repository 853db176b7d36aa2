"""The guards of tests/conftest.py hold."""

from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import NetworkForbidden


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org", b"example.org"])
def test_nothing_leaves_the_machine(host: str | bytes) -> None:
    with pytest.raises(NetworkForbidden):
        socket.getaddrinfo(host, 80)
    with socket.socket() as client, pytest.raises(NetworkForbidden):
        client.connect((host, 80))
    with socket.socket() as client, pytest.raises(NetworkForbidden):
        client.connect_ex((host, 80))


def test_urllib_is_stopped() -> None:
    with pytest.raises(NetworkForbidden):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_loopback_works(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port), timeout=5) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"ping")
                assert accepted.recv(4) == b"ping"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


def test_home_is_isolated(isolated_home: Path, tmp_path: Path) -> None:
    assert Path(os.environ["WHORL_HOME"]) == isolated_home
    assert isolated_home.is_relative_to(tmp_path)
