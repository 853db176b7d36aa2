"""Sockets of a server: bound before it is there, so that a taken port is told at once.

Light: a server's own libraries are imported while its engine begins.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from whorl.core.errors import BusyError, SpecError, WhorlError

__all__ = ["base_url_of", "is_loopback", "listen", "open_socket"]

SEND_BUFFER_BYTES = 128 * 2**10  # what the kernel holds for a client that does not read


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server bound to host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises BusyError when the port is taken, SpecError for a host that is no address of this
    machine, or a port that this process may not use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        found = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"serve.host {host[:80]} is not an address", found=found) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(error, host, port) from error
    return listener


def listen(listener: socket.socket, host: str) -> None:
    """Take connections. Raises BusyError if another process was faster."""
    port = listener.getsockname()[1]
    try:
        listener.listen(min(1024, socket.SOMAXCONN))
    except OSError as error:
        listener.close()
        raise _refused(error, host, port) from error


def _refused(error: OSError, host: str, port: int) -> WhorlError:
    kind, do = {
        errno.EADDRNOTAVAIL: (SpecError, "set serve.host to an address of this machine"),
        errno.EACCES: (SpecError, "set serve.port to 1024 or above; a proxy can listen below"),
    }.get(
        error.errno or 0,
        (BusyError, "stop the other server, or set serve.port to another port (0: any free one)"),
    )
    return kind(f"cannot listen on port {port} of {host}", found=error.strerror, do=do)


def base_url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
