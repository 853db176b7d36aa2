"""Who may speak to the server: Host, Origin, then a key or the page's cookie.

- Every route but /health and the page's files, which are the same for everybody, needs a key or
  the page's cookie. A key comes as `Authorization: Bearer`, or as `X-Api-Key`, which Anthropic's
  clients send; one of them, once. It is the key that the server was given or made at its start, or
  one of `whorl keys`, which may be limited to some routes and models, to requests and tokens per
  minute, and in what it may cost.
- The page is opened by the address printed at the start, which ends in `?token=…`. The token is
  made anew for each server process; it is answered with a cookie (HttpOnly, SameSite=Strict, also
  of this process alone) and a redirect to `/`, so that it does not stay in the address bar.
- A Host that is a name other than localhost or those of `serve.allowed_hosts` is refused: a page
  elsewhere cannot reach the server by pointing its own name at this machine. An Origin must be the
  server's own, or one of `serve.allowed_origins`, which alone get CORS headers. What a proxy adds
  (X-Forwarded-Host, Forwarded …) anybody can send: it is not read.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.keys import KeyRing, usable_key
from whorl.stages.serve.limits import NOBODY, Caller, Ledger

__all__ = ["SECURITY_HEADERS", "Access", "Guard", "caller_of"]

SAFE_METHODS = ("GET", "HEAD")
CALLER = "whorl.caller"  # key of the ASGI scope
GIVEN, PAGE = Caller("given key"), Caller("page")
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
CORS_HEADERS = {  # for serve.allowed_origins; no cookie is ever allowed from there
    "Vary": "Origin",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, *",  # clients send many of their own
    "Access-Control-Expose-Headers": "Retry-After, X-Request-Id, Request-Id",
    "Access-Control-Max-Age": "600",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@dataclass(frozen=True)
class Access:
    """The secrets of one server process, and the keys that it takes."""

    api_key: str | None = field(repr=False)  # None: only those of the ring
    keys: KeyRing | None = field(default=None, repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    page_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: f"whorl_{secrets.token_hex(4)}")

    @classmethod
    def of(
        cls, api_key: str | None, keys: KeyRing | None = None, ledger: Ledger | None = None
    ) -> Access:
        """With the given key; without one and without any of the ring, with a random one.

        Raises SpecError as `usable_key`.
        """
        has_others = keys is not None and bool(keys.keys)
        key = None if api_key is None and has_others else usable_key(api_key)
        return cls(key, keys, ledger or Ledger())

    def caller_of_key(self, text: str) -> Caller | None:
        """Who has this key; None: nobody. Takes as long for a wrong key as for a right one."""
        is_given = _same(text, self.api_key or "") and bool(self.api_key)
        entry = None if self.keys is None else self.keys.find(text)
        if is_given:
            return GIVEN
        return None if entry is None else self.ledger.caller(entry)

    def page_address(self, base_url: str) -> str:
        return f"{base_url}/?token={self.page_token}"


class Guard:
    """ASGI middleware in front of every route."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        allowed_hosts: tuple[str, ...],
        open_paths: frozenset[str],
        allowed_origins: tuple[str, ...] = (),
        on_refused: Callable[[str], None] = lambda code: None,
        check_room: Callable[[Caller, str], None] = lambda caller, path: None,
    ) -> None:
        """check_room: raises ApiError for a path that is not even read now."""
        self.check_room = check_room
        self.app, self.access, self.open_paths = app, access, open_paths
        self.allowed_hosts = {"localhost", *(name.lower() for name in allowed_hosts)}
        self.allowed_origins = frozenset(origin.lower() for origin in allowed_origins)
        self.on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        origin = Headers(scope=scope).get("origin", "").lower()
        more = CORS_HEADERS | {"Access-Control-Allow-Origin": origin}

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                allowed = more if origin in self.allowed_origins else {}
                for name, value in (SECURITY_HEADERS | allowed).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            answer = self._answer(scope)
        except ApiError as error:
            self.on_refused(error.code)
            answer = error.response(scope["path"])
        await (answer or self.app)(scope, receive, send_secured)

    def _answer(self, scope: Scope) -> Response | None:
        """None: let it through, by the name of who asks. Raises ApiError."""
        headers = Headers(scope=scope)
        method, path = scope["method"], scope["path"]
        host = headers.get("host", "")
        if not self._host_is_ours(host):
            raise _wrong_host(host)
        origin = headers.get("origin")
        own = f"http://{host}".lower(), f"https://{host}".lower()
        is_own = origin is None or origin.lower() in own
        if not (is_own or (origin or "").lower() in self.allowed_origins):
            raise ApiError(
                403,
                "requests of other sites' pages are refused: the Origin is not the address of the "
                "Host; a proxy must pass the browser's Host on (nginx: proxy_set_header Host "
                "$http_host); a site that may ask is named in serve.allowed_origins",
                code="wrong_origin",
            )
        if "transfer-encoding" in headers and "content-length" in headers:
            raise ApiError(400, "two lengths of one body", code="ambiguous_length")
        if not is_own and method == "OPTIONS" and "access-control-request-method" in headers:
            return Response(status_code=204)
        if path == "/health" and method in SAFE_METHODS:
            return None
        caller = self._caller(headers)
        if caller is not None:
            self._check_scope(caller, path)
            scope[CALLER] = caller
            return None
        if path == "/" and method == "GET" and self._token_is_right(scope):
            return self._enter()
        is_the_page = is_own and (method in SAFE_METHODS or origin is not None)
        if is_the_page and self._cookie_is_right(scope):
            self.check_room(PAGE, path)
            scope[CALLER] = PAGE
            return None
        if path in self.open_paths and method in SAFE_METHODS:
            return None
        return self._denied(path)

    def _check_scope(self, caller: Caller, path: str) -> None:
        if caller.entry is not None and not caller.entry.may_ask(path):
            raise ApiError(
                403,
                f"this key may ask {', '.join(caller.entry.routes)}, and nothing else",
                code="key_scope",
            )
        self.access.ledger.count_request(caller)
        self.check_room(caller, path)

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

    def _caller(self, headers: Headers) -> Caller | None:
        """Who sent the one key that came."""
        bearers, others = headers.getlist("authorization"), headers.getlist("x-api-key")
        if len(bearers) + len(others) != 1:
            return None
        scheme, _, key = bearers[0].partition(" ") if bearers else ("bearer", "", others[0])
        return self.access.caller_of_key(key) if scheme.lower() == "bearer" else None

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

    def _denied(self, path: str) -> Response:
        self.on_refused("invalid_api_key")
        challenge = {"WWW-Authenticate": "Bearer"}
        return ApiError(
            401,
            "an API key is needed: Authorization: Bearer <key>; the server was given it, printed "
            "it at its start, or has it from `whorl keys add`",
            code="invalid_api_key",
            headers=challenge,
        ).response(path)


def caller_of(request: Request) -> Caller:
    """Whom the guard let through."""
    caller = request.scope.get(CALLER, NOBODY)
    assert isinstance(caller, Caller)
    return caller


def _wrong_host(host: str) -> ApiError:
    name = host.partition(":")[0]
    told = f" {name}" if HOST_NAME.fullmatch(name) else ""
    return ApiError(
        403,
        f"the host name{told} is not served here: use the printed address, or allow the name "
        f"(--allow-host{told}, or serve.allowed_hosts of the recipe)",
        code="wrong_host",
    )


def _same(given: str, right: str) -> bool:
    """Compared in a time that tells nothing of the right one."""
    return hmac.compare_digest(_digest(given), _digest(right))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
