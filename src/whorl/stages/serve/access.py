"""Who may speak to the server: Host, Origin, then a key or the page's cookie.

- Every route but /health and the page's files, which are the same for everybody, needs
  `Authorization: Bearer <API key>` or the page's cookie.
- The page is opened by the address printed at the start, which ends in `?token=…`. The token is
  made anew for each server process; it is answered with a cookie (HttpOnly, SameSite=Strict, also
  of this process alone) and a redirect to `/`, so that it does not stay in the address bar.
- A Host that is a name other than localhost or those of `serve.allowed_hosts` is refused: a page
  elsewhere cannot reach the server by pointing its own name at this machine. An Origin must be the
  server's own. What a proxy adds (X-Forwarded-Host, Forwarded …) anybody can send: it is not read.
- With the cookie, a request that changes something must carry the Origin.

Cookies are shared by all ports of a host name: another server on this machine that the same
browser visits sees the cookie, as with any local web application.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.core.errors import SpecError
from whorl.stages.serve.errors import ApiError

__all__ = ["Access", "Guard", "usable_key"]

MIN_KEY_CHARS = 16
SAFE_METHODS = ("GET", "HEAD")
HOST_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # one that can be told to a person
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The secrets of one server process."""

    api_key: str = field(repr=False)
    page_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: f"whorl_{secrets.token_hex(4)}")

    @classmethod
    def of(cls, api_key: str | None) -> Access:
        """With the given key, or a random one. Raises SpecError as `usable_key`."""
        return cls(usable_key(api_key))

    def page_address(self, base_url: str) -> str:
        return f"{base_url}/?token={self.page_token}"


def usable_key(api_key: str | None) -> str:
    """The given key, or a random one. Raises SpecError if the key is too weak to use."""
    if api_key is None:
        return f"whorl-{secrets.token_urlsafe(32)}"
    if len(api_key) < MIN_KEY_CHARS or not all("!" <= char <= "~" for char in api_key):
        raise SpecError(
            "the API key cannot be used",
            found=f"{len(api_key)} characters",
            expected=f"at least {MIN_KEY_CHARS}, all visible ASCII",
            do="leave WHORL_API_KEY and --api-key out to have one made",
        )
    return api_key


class Guard:
    """ASGI middleware in front of every route."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        allowed_hosts: tuple[str, ...],
        open_paths: frozenset[str],
    ) -> None:
        self.app, self.access, self.open_paths = app, access, open_paths
        self.allowed_hosts = {"localhost", *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope)
        await (answer or self.app)(scope, receive, send_secured)

    def _answer(self, scope: Scope) -> Response | None:
        """None: let it through."""
        headers = Headers(scope=scope)
        method, path = scope["method"], scope["path"]
        host = headers.get("host", "")
        if not self._host_is_ours(host):
            return _wrong_host(host)
        origin = headers.get("origin")
        own = f"http://{host}".lower(), f"https://{host}".lower()
        if origin is not None and origin.lower() not in own:
            return ApiError(
                403,
                "requests of other sites' pages are refused: the Origin is not the address of the "
                "Host; a proxy must pass the browser's Host on (nginx: proxy_set_header Host "
                "$http_host)",
                code="wrong_origin",
            ).response()
        if "transfer-encoding" in headers and "content-length" in headers:
            return ApiError(400, "two lengths of one body", code="ambiguous_length").response()
        if path == "/health" and method in SAFE_METHODS:
            return None
        if self._bearer_is_right(headers):
            return None
        if path == "/" and method == "GET" and self._token_is_right(scope):
            return self._enter()
        if self._cookie_is_right(scope) and (method in SAFE_METHODS or origin is not None):
            return None
        if path in self.open_paths and method in SAFE_METHODS:
            return None
        return self._denied()

    def _host_is_ours(self, host: str) -> bool:
        """Any address, localhost, or an allowed name; with or without a port."""
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, "0"
        if not (port.isascii() and port.isdigit()):
            return False
        if name.lower().removesuffix(".") in self.allowed_hosts:
            return True
        try:
            bracketed = name.startswith("[") and name.endswith("]")
            address = ipaddress.ip_address(name[1:-1] if bracketed else name)
        except ValueError:
            return False
        return bracketed == (address.version == 6)

    def _bearer_is_right(self, headers: Headers) -> bool:
        values = headers.getlist("authorization")
        scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        return scheme.lower() == "bearer" and _same(key, self.access.api_key)

    def _cookie_is_right(self, scope: Scope) -> bool:
        value = Request(scope).cookies.get(self.access.cookie, "")
        return _same(value, self.access.session)

    def _token_is_right(self, scope: Scope) -> bool:
        try:
            values = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=4)
        except ValueError:
            return False
        return _same(values.get("token", [""])[0], self.access.page_token)

    def _enter(self) -> Response:
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self.access.cookie, self.access.session, httponly=True, samesite="strict", path="/"
        )
        return answer

    def _denied(self) -> Response:
        challenge = {"WWW-Authenticate": "Bearer"}
        return ApiError(
            401,
            "an API key is needed: Authorization: Bearer <key>; the server was given it, or "
            "printed it at its start",
            code="invalid_api_key",
            headers=challenge,
        ).response()


def _wrong_host(host: str) -> Response:
    name = host.partition(":")[0]
    told = f" {name}" if HOST_NAME.fullmatch(name) else ""
    return ApiError(
        403,
        f"the host name{told} is not served here: use the printed address, or allow the name "
        f"(--allow-host{told}, or serve.allowed_hosts of the recipe)",
        code="wrong_host",
    ).response()


def _same(given: str, right: str) -> bool:
    """Compared in a time that tells nothing of the right one."""
    return hmac.compare_digest(_digest(given), _digest(right))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
