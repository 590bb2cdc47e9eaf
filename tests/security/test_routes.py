"""Every route of the served page, in every spelling, with cookies that open nothing: 401, and not a word of it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from urllib.parse import unquote, urlsplit

import pytest
from gradio.routes import App

from engine.words import LANGUAGES, words
from tests.security.attack import ACCOUNTS, FROM_INSIDE, JOIN, RUN, forged_cookies, routes_of
from webui.access.door import COOKIE, STARTS
from webui.access.sessions import Sessions

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "BREW")
OPEN = {("/login", "POST"), ("/logout", "POST"), (STARTS, "GET")}
"""What answers before anybody has signed in: the form, the way out, and gradio's question to its own server."""
FURTHER = (
    "/", "/login", "/logout", "/config", "/api", "/api/predict", "/queue/join", "/queue/data?session_hash=x",
    "/upload",
    "/file=/etc/passwd", "/file=accounts", "/gradio_api/file=/etc/passwd", "/gradio_api/file=accounts",
    "/gradio_api/file=http://127.0.0.1/", "/gradio_api/proxy=https://huggingface.co", "/proxy=x", "/mcp",
    "/gradio_api/mcp",
    "/gradio_api/mcp/sse", "/gradio_api/mcp/http", "/gradio_api/mcp/schema", "/deep_link", "/?deep_link=x",
    "/heartbeat/x",
    "/component_server", "/monitoring", "/monitoring/summary", "/monitoring/x", "/theme.css", "/static/img/logo.svg",
    "/assets/index.js", "/svelte/svelte.js", "/openapi.json", "/docs", "/redoc", "/metrics", "/.env", "/saves", "/data",
    "/saves/.access/sessions.json", "/ws", "/socket.io/", "/gradio_api/dev/reload", "/vibe-code",
    "/gradio_api/vibe-code",
)  # fmt: skip


@pytest.fixture(scope="module")
def routes(page) -> list[str]:
    """The app's own table, with something in place of each parameter."""
    paths = routes_of(App.create_app(page, mcp_server=False))
    assert len(paths) > 70 and "/gradio_api/queue/join" in paths
    return sorted(paths | set(FURTHER))


def knock(target, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None):
    """A request with this very path, which no client library may tidy up. Returns status and text."""
    connection = http.client.HTTPConnection(urlsplit(target.address).netloc, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"content-length": str(len(body or b"")), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body or b"")
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace") + str(answer.headers)
    finally:
        connection.close()


def is_silent(text: str) -> bool:
    return not any(word in text for word in FROM_INSIDE)


def test_every_route_with_every_method(target, routes):
    """Nobody is let in, and a refusal is one of two sentences or the form."""
    sentences = {words("access.sign_in_first", language) for language in LANGUAGES}
    asked = 0
    for path in routes:
        for method in METHODS:
            if (path, method) in OPEN:
                continue
            status, text = knock(target, method, path, {"content-type": "application/json"}, b"{}")
            assert status in (401, 400), (method, path, status)
            if status == 401 and method != "HEAD":
                assert json.loads(text[: text.index("}") + 1])["error"] in sentences, (method, path)
            assert is_silent(text), (method, path, text[:300])
            asked += 1
    assert asked > 900
    form = knock(target, "GET", "/gradio_api/file=accounts", {"accept": "text/html"})
    assert form[0] == 401 and "<form" in form[1] and is_silent(form[1]) and "gradio" not in form[1]


def spellings(path: str) -> list[str]:
    bare, encoded = path.strip("/"), "".join(f"%{ord(sign):02x}" for sign in path.strip("/"))
    return [
        f"//{bare}", f"///{bare}", f"/{bare}/", f"/{bare}//", f"/./{bare}", f"/%2e/{bare}", f"/login/../{bare}",
        f"/login/%2e%2e/{bare}", f"/login%2f..%2f{bare}", f"{STARTS}/../../{bare}", f"{STARTS}/%2e%2e/%2e%2e/{bare}",
        f"{STARTS}?/../../{bare}", f"/{bare.upper()}", f"/{bare.title()}", f"/{encoded}", f"/%2f{bare}", f"/{bare}%00",
        f"/{bare}%20", f"/{bare};login", f"/{bare}?login", f"/{bare}%23", f"\\{bare}", f"/login\\..\\{bare}",
        f"http://127.0.0.1/{bare}", f"http://evil.example/{bare}", f"/{bare}?%ff", f"/{bare}?x=%00&y=%c3%28", "*",
    ]  # fmt: skip


def test_every_route_in_odd_spellings(target, routes):
    for path in routes:
        for spelled in spellings(path):
            if unquote(spelled).partition("?")[0] == STARTS:
                continue  # it says true or false to this machine, whatever is asked beside
            status, text = knock(target, "GET", spelled)
            assert status in (400, 401, 404), (spelled, status)
            assert is_silent(text), (spelled, text[:300])


@pytest.mark.parametrize(
    "headers",
    [{"x-lathe-role": "owner", "x-lathe-name": "ada"}, {"X-Lathe-Role": "owner"}, {"x_lathe_role": "owner"},
     {"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-prefix": "/login"}, {"x-forwarded-host": "localhost"},
     {"x-original-url": "/login"}, {"x-rewrite-url": "/login"}, {"x-http-method-override": "GET"}, {"host": "]"},
     {"authorization": "Bearer owner"}, {"authorization": "Basic YWRhOnJpZ2h0IGFuZCBsb25n"}, {"upgrade": "h2c"},
     {"x-gradio-user": "app"}, {"x-ip-token": "x"}, {"referer": "http://127.0.0.1/login"}, {"x-root-path": "/config"}],
    ids=str,
)  # fmt: skip
def test_headers_that_claim_to_be_somebody(target, headers):
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=accounts"):
        status, text = knock(target, "GET", path, headers)
        assert status in (400, 401) and is_silent(text), (path, status)


def test_cookies_that_open_nothing(target, routes, tmp_path, expired):
    owner = target.client("ada")
    token = owner.cookies[COOKIE]
    cookies = list(forged_cookies(token))
    cookies += [f"{COOKIE}={each}" for each in expired.values()]
    cookies.append(f"{COOKIE}={Sessions(tmp_path / 'other' / 'sessions.json', ACCOUNTS).begin(ACCOUNTS['ada'])}")
    left = target.client("ada")
    cookies.append(f"{COOKIE}={left.cookies[COOKIE]}")
    assert left.post("/logout").status_code == 303
    for cookie in cookies:
        for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x", "/theme.css"):
            status, text = knock(target, "GET", path, {"cookie": cookie})
            assert status == 401 and is_silent(text), (cookie[:60], path, status)
    for path in routes:  # and the likeliest of them everywhere
        if (path, "GET") not in OPEN:
            status, text = knock(target, "GET", path, {"cookie": cookies[-1]})
            assert status == 401 and is_silent(text), (path, status)
    assert owner.get("/config").status_code == 200, "none of that has thrown anybody out"


def test_a_websocket_is_refused(target):
    host, port = urlsplit(target.address).netloc.split(":")
    for path in ("/", "/gradio_api/queue/join", "/queue/join", "/ws"):
        with socket.create_connection((host, int(port)), timeout=20) as wire:
            wire.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            said = wire.recv(4096).decode("latin-1")
        assert said.split(" ")[1] in ("401", "403", "400"), said


def test_a_second_request_hidden_in_the_first(target):
    """Two lengths for one body: whichever the server believes, the hidden request has no session either."""
    hidden = b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n"
    host, port = urlsplit(target.address).netloc.split(":")
    for head in (
        f"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden) + 5}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as wire:
            wire.sendall(head.encode() + hidden)
            wire.shutdown(socket.SHUT_WR)
            said, until = b"", time.monotonic() + 10
            while time.monotonic() < until and (part := wire.recv(65536)):
                said += part
        assert b" 200 " not in said and is_silent(said.decode("latin-1"))


def test_the_page_tells_the_browser_to_fetch_nothing_from_elsewhere(target):
    for answer in (target.client("ada").get("/"), target.client().get("/", headers={"accept": "text/html"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy or "default-src 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and "http:" not in policy and "*" not in policy


FOREIGN = (
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "origin": "http://evil.example"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "origin": "https://evil.gradio.live"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"}, {"origin": "http://evil.example", "x-forwarded-host": "evil.example"},
)  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_another_site_acts_through_nobody(target, headers):
    """What a page elsewhere sends through a visitor's browser, which adds the cookie where it may."""
    owner = target.client("ada")
    body = {"fn_index": target.events["page._speak.<locals>.switch"], "data": ["en"], "session_hash": "s"}
    for path in (RUN, JOIN, "/logout", "/login", "/gradio_api/upload"):
        assert owner.post(path, json=body, headers=headers).status_code == 403, path
    for path in ("/config", "/", "/gradio_api/queue/data?session_hash=s"):
        assert owner.get(path, headers=headers).status_code == 403, path


def test_a_link_and_the_page_itself_are_no_other_site(target):
    owner = target.client("ada")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "accept": "text/html"}
    assert owner.get("/", headers=link).status_code == 200
    assert owner.post("/logout", headers=link).status_code == 403, "but a form elsewhere is one"
    body = {"fn_index": target.events["page._speak.<locals>.switch"], "data": [None, "en"], "session_hash": "s"}
    for headers in ({"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": target.address}, {}):
        assert owner.post(RUN, json=body, headers=headers).status_code == 200
