"""Who may speak: every route of the app against every kind of wrong key, Host and Origin."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from whorl.stages.serve.page import PAGE_FILES

KEY = "test-key-0123456789abcdef"
WRONG_HEADERS: list[list[tuple[str, str]]] = [
    [],
    [("Authorization", "")],
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer wrong-key-0123456789")],
    [("Authorization", f"Bearer {KEY[:-1]}")],
    [("Authorization", f"Bearer {KEY}x")],
    [("Authorization", f"Bearer {KEY.upper()}")],
    [("Authorization", f"Bearer {KEY} {KEY}")],
    [("Authorization", KEY)],
    [("Authorization", f"Basic {KEY}")],
    [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
    [("Authorization", "Bearer x"), ("Authorization", f"Bearer {KEY}")],
    [("Cookie", f"whorl={KEY}")],
    [("X-Api-Key", KEY[:-1])],
    [("X-Api-Key", f"Bearer {KEY}")],
    [("X-Api-Key", KEY), ("Authorization", f"Bearer {KEY}")],
    [("X-Api-Key", KEY), ("X-Api-Key", KEY)],
    [("X-Forwarded-For", "127.0.0.1"), ("X-Original-URL", "/health")],
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def server(start):  # type: ignore[no-untyped-def]
    with start() as running:
        yield running


@pytest.fixture(scope="module")
def stranger(server):  # type: ignore[no-untyped-def]
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        yield client


def paths_of(app: Any) -> list[str]:
    return [route.path for route in app.routes if isinstance(route, APIRoute)]


def test_without_the_key_nothing_answers_but_health(server: Any, stranger: Any) -> None:
    paths = paths_of(server.app)
    assert {"/", "/health", "/v1/models", "/v1/completions", "/studio.js"} <= set(paths)
    open_to_all = {"/health", *PAGE_FILES}
    extra = ["/v1/models/", "/studio.js/", "/health/", "/Health", "/health/../v1/models"]
    extra += ["/v1/nothing", "/docs", "/openapi.json", f"/v1/models?key={KEY}"]
    refused = 0
    kinds = [(method, []) for method in METHODS]
    kinds += itertools.product(("GET", "POST"), WRONG_HEADERS)
    for path, (method, headers) in itertools.product(paths + extra, kinds):
        if path in open_to_all and method in ("GET", "HEAD"):
            continue
        response = stranger.request(method, f"{server.base_url}{path}", headers=headers)
        assert response.status_code == 401, (method, path, headers)
        assert response.headers["www-authenticate"] == "Bearer"
        refused += 1
    assert refused > 500
    assert server.engine.submitted == []


def test_health_needs_no_key_and_tells_little(stranger: Any) -> None:
    response = stranger.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "requests": 0, "last_progress_s": None}


def test_the_scheme_may_be_written_in_any_case(server: Any, stranger: Any) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        headers = {"Authorization": f"{scheme} {KEY}"}
        assert stranger.get("/v1/models", headers=headers).status_code == 200


def test_the_key_may_come_as_anthropics_clients_send_it(stranger: Any) -> None:
    assert stranger.get("/v1/models", headers={"X-Api-Key": KEY}).status_code == 200


def test_the_printed_address_opens_the_page(server: Any) -> None:
    access = server.app.state.access
    address = access.page_address(server.base_url)
    with httpx.Client(trust_env=False) as browser:
        entered = browser.get(address)
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert access.page_token not in cookie and KEY not in cookie
        page = browser.get(server.base_url)
        assert page.status_code == 200 and "<title>whorl</title>" in page.text
        for path in ("/studio.js", "/studio.css", "/icon.svg", "/v1/models"):
            assert browser.get(server.base_url + path).status_code == 200
        url, body = f"{server.base_url}/v1/completions", server.body()
        assert browser.post(url, json=body).status_code == 401  # a page would send its Origin
        own = {"Origin": server.base_url}
        assert browser.post(url, json=body, headers=own).status_code == 200
        assert browser.get(address).status_code == 303  # the address works as long as the server


def test_the_page_is_the_same_for_everybody_and_tells_nothing(server: Any, stranger: Any) -> None:
    for path in PAGE_FILES:
        seen = [client.get(server.base_url + path) for client in (stranger, server.client)]
        assert [each.status_code for each in seen] == [200, 200]
        assert seen[0].content == seen[1].content
        assert "set-cookie" not in seen[0].headers
        assert b"tiny" not in seen[0].content and KEY.encode() not in seen[0].content
        assert stranger.post(path).status_code == 401
    for query in ("?token=wrong", "?token=", f"?token={KEY}", "?token=%00"):
        response = stranger.get(f"/{query}", headers={"Accept": "text/html,*/*"})
        assert response.status_code == 200 and "set-cookie" not in response.headers
        assert "the server printed" in response.text


def test_secrets_are_not_in_reprs(server: Any) -> None:
    access = server.app.state.access
    assert not any(secret in repr(access) for secret in (KEY, access.page_token, access.session))


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("localhost", True),
        ("LOCALHOST:1234", True),
        ("127.0.0.1:80", True),
        ("[::1]:8000", True),
        ("localhost.", True),
        ("192.168.1.5:8000", True),  # an address cannot be pointed elsewhere
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:8000", False),
        ("localhost:80:80", False),
        ("localhost:port", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("", False),
        ("localhost@evil", False),
    ],
)
def test_hosts(server: Any, host: str, accepted: bool) -> None:
    for path in ("/health", "/v1/models"):
        response = server.client.get(path, headers={"Host": host})
        assert response.status_code == (200 if accepted else 403)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://localhost:1", "https://127.0.0.1", "file://"],
)
def test_other_origins_are_refused_even_with_the_key(server: Any, origin: str) -> None:
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("OPTIONS", "/")):
        response = server.client.request(method, path, headers={"Origin": origin})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


def test_an_allowed_name_and_the_own_name(start: Any) -> None:
    with start(allowed_hosts=("Models.Example",), host="localhost") as running:
        for host, status in (("models.example:80", 200), ("other.example", 403)):
            headers = {"Host": host, "Origin": f"http://{host}"}
            assert running.client.get("/v1/models", headers=headers).status_code == status


def test_a_refused_name_is_told_with_the_key_that_allows_it(server: Any) -> None:
    for host in ("mybox.local", "mybox.local:8080", "my_service"):
        response = server.client.get("/health", headers={"Host": host})
        error = response.json()["error"]
        assert error["code"] == "wrong_host" and "serve.allowed_hosts" in error["message"]
        assert f"--allow-host {host.partition(':')[0]}" in error["message"]
    for strange in ("<b>x</b>", "a b", "x" * 300):
        assert strange not in server.client.get("/health", headers={"Host": strange}).text


BROWSER = "https://models.example:8443"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "models.example:8443", "Origin": BROWSER}, 200),  # passed on as it came
        ({"Host": "Models.Example.", "Origin": "https://models.example."}, 200),
        ({"Host": "models.example", "Origin": BROWSER}, 403),  # without its port
        ({"Host": "127.0.0.1:8000", "Origin": BROWSER}, 403),  # rewritten
        ({"Host": "127.0.0.1:8000"}, 200),  # a program behind the same proxy
        ({"Host": "other.example", "X-Forwarded-Host": "models.example"}, 403),
        ({"Host": "models.example", "X-Forwarded-Host": "evil.example"}, 200),
        ({"Host": "models.example", "Forwarded": "for=x;host=evil.example"}, 200),
        ({"Host": "127.0.0.1", "X-Forwarded-Host": "evil.example", "Origin": BROWSER}, 403),
    ],
)
def test_behind_a_proxy_host_decides_and_forwarded_headers_do_not(
    start: Any, headers: dict[str, str], status: int
) -> None:
    forwarded = {"X-Forwarded-For": "1.2.3.4, 5.6.7.8", "X-Forwarded-Proto": "https", **headers}
    with start(allowed_hosts=("models.example",)) as running:
        response = running.client.get("/v1/models", headers=forwarded)
        assert response.status_code == status
        if status == 403 and "Origin" in headers:
            assert "$http_host" in response.text
        without_key = {"Authorization": "", "X-Real-IP": "127.0.0.1", **forwarded}
        assert running.client.get("/v1/models", headers=without_key).status_code in (401, 403)


def test_every_answer_has_the_security_headers(server: Any, stranger: Any) -> None:
    answers = [
        stranger.get("/"),
        stranger.get("/health", headers={"Host": "evil"}),
        server.client.get("/"),
        server.client.get("/nothing"),
        server.complete(stream=True),
        server.complete(model="other"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_an_answer_about_a_defect_has_them_too(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the place of the request that ran into it is free again."""
    with start() as running:

        def broken(*given: Any) -> None:
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(running.engine, "submit", broken)
            answer = running.complete()
        assert answer.status_code == 500 and "a defect" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert running.gateway.inside == 0 and running.gateway.stall_s is None
        assert running.complete().status_code == 200
