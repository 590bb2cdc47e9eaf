"""One visitor who asks for too much stops himself and nobody else; and a share link is opened, refused, and ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from gradio import networking, tunneling
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.catalog.accounts import Account, hashed
from engine.errors import UserError
from engine.words import LANGUAGES, words
from tests.loops import run
from webui.access import limits as rules
from webui.access.door import COOKIE, Door
from webui.access.limits import AT_ONCE, LISTENING, STREAM, WAITING, Limited, Limits
from webui.access.sessions import Sessions
from webui.access.sharing import Sharing
from webui.access.tunnel import close_tunnels, open_tunnel
from webui.access.turns import Turns

ADA, BOB = Account("ada", "owner", hashed("right and long")), Account("bob", "viewer", hashed("only looking"))
ACCOUNTS = {each.name: each for each in (ADA, BOB)}


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path / "sessions.json", ACCOUNTS)


async def _sized(request: Request):
    return PlainTextResponse(str(len(await request.body())))


def _client(sessions, limits, token="", inner=None):
    app = inner or Starlette(routes=[Route("/{path:path}", _sized, methods=["GET", "POST"])])
    return TestClient(Limited(app, limits, sessions, "en"), cookies={COOKIE: token} if token else {})


def test_a_flood_is_refused_and_others_are_not(sessions, monkeypatch):
    monkeypatch.setattr(rules, "BURST", 5.0)
    now = 0.0
    limits = Limits(lambda: now)
    ada, bob = (_client(sessions, limits, sessions.begin(each)) for each in (ADA, BOB))
    answers = [ada.get("/config") for _ in range(20)]
    assert [each.status_code for each in answers].count(200) in (5, 6)
    refused = answers[-1]
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and "Wait 1" in refused.json()["error"]
    korean = ada.get("/config", headers={"cookie": f"lathe-language=ko; {COOKIE}={ada.cookies[COOKIE]}"})
    assert korean.json()["error"] == words("access.too_much", "ko", seconds=1), "in the language that was chosen"
    assert bob.get("/config").status_code == _client(sessions, limits).get("/config").status_code == 200
    now = 1.0
    assert ada.get("/config").status_code == 200
    assert limits.connected() == [("ada", "owner", 1), ("bob", "viewer", 1)]
    now = 60.0
    assert limits.connected() == []


def test_cookies_that_nobody_gave_out_are_one_visitor(sessions, monkeypatch):
    monkeypatch.setattr(rules, "BURST", 5.0)
    limits = Limits(lambda: 0.0)
    codes = [_client(sessions, limits, f"made-up-{number}").get("/").status_code for number in range(12)]
    assert codes.count(429) >= 6


@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_too_long_is_not_read_to_its_end(sessions, monkeypatch, is_told):
    monkeypatch.setattr(rules, "LONGEST_BODY", 1000)
    client, read = _client(sessions, Limits(), sessions.begin(ADA)), []

    def parts():
        for _ in range(100):
            read.append(1)
            yield b"x" * 100

    answer = client.post("/gradio_api/queue/join", content=b"x" * 2000 if is_told else parts())
    assert answer.status_code == 413 and "Send less" in answer.json()["error"]
    assert client.post("/gradio_api/queue/join", content=b"x" * 999).text == "999"
    assert client.post("/gradio_api/upload", content=b"x" * 2000).text == "2000", "gradio measures uploads itself"


def test_only_so_many_are_worked_on_at_once_and_others_go_ahead(sessions):
    tokens = {name: sessions.begin(ACCOUNTS[name]) for name in ACCOUNTS}

    async def main():
        go, begun = asyncio.Event(), []

        async def app(scope, receive, send):
            begun.append(scope["path"])
            await go.wait()
            await PlainTextResponse("done")(scope, receive, send)

        limited = Limited(app, Limits(), sessions, "en")

        async def ask(name, path):
            cookie = f"{COOKIE}={tokens[name]}".encode()
            status = []

            async def send(message):
                status.extend([message["status"]] if message["type"] == "http.response.start" else [])

            scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"cookie", cookie)],
                     "query_string": b"", "client": ("10.0.0.9", 1)}  # fmt: skip
            await limited(scope, None, send)
            return status[0]

        flood = [asyncio.create_task(ask("ada", "/slow")) for _ in range(AT_ONCE + WAITING + 30)]
        streams = [asyncio.create_task(ask("ada", STREAM)) for _ in range(LISTENING + 5)]
        for _ in range(20):  # each turn of the loop lets all go on that can
            await asyncio.sleep(0.05)
        assert begun.count("/slow") == AT_ONCE and begun.count(STREAM) == LISTENING
        other = asyncio.create_task(ask("bob", "/other"))
        for _ in range(20):
            await asyncio.sleep(0.05)
        assert "/other" in begun, "bob waits for nobody"
        go.set()
        codes = await asyncio.gather(*flood)
        assert codes.count(429) == 30 and codes.count(200) == AT_ONCE + WAITING
        assert (await asyncio.gather(*streams)).count(429) == 5 and await other == 200
        assert await ask("ada", "/slow") == 200

    run(main())


def test_answers_are_given_to_so_many_and_each_has_his_share():
    turns = Turns(most=3, most_each=2)
    ada, bob, eve = (SimpleNamespace(cookies={COOKIE: name}, session_hash="x") for name in ("ada", "bob", "eve"))
    with turns.taken(ada), turns.taken(ada):
        with pytest.raises(UserError) as refused, turns.taken(ada):
            pass
        assert refused.value.key == "access.too_many_chats" and refused.value.text("ru")
        with turns.taken(bob), pytest.raises(UserError), turns.taken(eve):
            pass
        with turns.taken(eve):
            pass
    with turns.taken(ada), turns.taken(ada), turns.taken(bob):
        pass


def test_after_the_end_of_sharing_only_this_machine_is_answered(sessions, monkeypatch):
    sharing = Sharing(ACCOUNTS, sessions, "en")
    tokens = [sessions.begin(each) for each in (ADA, BOB)]
    app = Starlette(routes=[Route("/{path:path}", _sized)], middleware=sharing.middleware({}))
    near, far = (TestClient(app, client=(host, 1), cookies={COOKIE: tokens[0]}) for host in ("127.0.0.1", "10.0.0.9"))
    assert near.get("/x").status_code == far.get("/x").status_code == 200
    sharing.stop(tokens[0])
    assert near.get("/x").status_code == 200 and far.get("/x").status_code == 403
    assert "no longer shared" in far.get("/x").text and far.post("/login").status_code == 403
    assert sessions.account(tokens[1]) is None and Sessions(sessions._path, ACCOUNTS).account(tokens[1]) is None


@pytest.fixture
def tunnel(tmp_path, monkeypatch):
    """A program in the place of the tunnel's: says what it is told to, and stays."""
    program = tmp_path / "frpc"
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(program))
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(tunneling, "TUNNEL_TIMEOUT_SECONDS", 2)

    def says(line, mode=0o755):
        program.write_text(f"#!/bin/sh\necho '{line}'\nexec sleep 60\n", encoding="utf-8")
        program.chmod(mode)

    yield says
    close_tunnels()


def test_a_tunnel_is_opened_and_closed(tunnel):
    tunnel("start proxy success: http://abc.example.org")
    assert open_tunnel("0.0.0.0", 7860) == "http://abc.example.org"
    (kept,) = tunneling.CURRENT_TUNNELS
    process, told = kept.proc, Path(f"/proc/{kept.proc.pid}")
    assert kept.local_host == "127.0.0.1" and told.exists()
    close_tunnels()
    process.wait(5)
    assert not tunneling.CURRENT_TUNNELS


def test_a_tunnel_that_cannot_be_opened_says_why_and_what_else_works(tunnel, monkeypatch, tmp_path):
    def refused(key, detail):
        with pytest.raises(UserError) as error:
            open_tunnel("127.0.0.1", 7861)
        assert error.value.key == f"access.tunnel_{key}" and detail in error.value.text("en")
        assert all("ssh -L 7861:localhost:7861" in error.value.text(language) for language in LANGUAGES)
        assert not tunneling.CURRENT_TUNNELS

    tunnel("login to server failed: no room")
    refused("refused", "no room")
    tunnel("nothing", mode=0o644)
    refused("program", str(tmp_path / "frpc"))
    (tmp_path / "frpc").unlink()
    monkeypatch.setattr(tunneling.httpx, "get", lambda *_, **__: (_ for _ in ()).throw(httpx.ConnectError("no route")))
    refused("program", "no route")
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", None)
    refused("no_server", "no route")
    answer = SimpleNamespace(json=lambda: [{"host": "127.0.0.1", "port": 9, "root_ca": "x"}])
    monkeypatch.setattr(networking.httpx, "get", lambda *_, **__: answer)
    monkeypatch.setattr(networking, "CERTIFICATE_PATH", "/proc/nowhere/certificate.pem")
    refused("read_only", "/proc/nowhere")


def test_the_door_takes_no_word_for_where_somebody_comes_from(sessions):
    """What a proxy would say of an address is anybody's to say."""
    app = Door(Starlette(routes=[Route("/{path:path}", _sized)]), ACCOUNTS, sessions, frozenset(), is_over=lambda: True)
    far = TestClient(app, client=("10.0.0.9", 1), cookies={COOKIE: sessions.begin(ADA)})
    for name in ("x-forwarded-for", "x-real-ip", "forwarded", "host"):
        assert far.get("/x", headers={name: "127.0.0.1"}).status_code == 403
