"""Who is let in, how far, and how often somebody may be wrong: asked of the whole page, route by route."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest
from gradio.routes import App
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.testclient import TestClient

import webui.access.door as door_module
from engine.catalog.accounts import Account, AccountsFile, hashed, read_accounts, signed_in
from engine.errors import UserError
from engine.options.serve import Serve
from engine.words import words
from terminal.password import password
from tests.security.attack import routes_of
from webui.access.attempts import LIMITS, Attempts
from webui.access.door import COOKIE, EVENTS, Door
from webui.access.sessions import Sessions
from webui.access.sharing import Sharing
from webui.access.start import needs_door
from webui.access.viewers import EVENTS as FOR_VIEWERS
from webui.access.viewers import allowed, name_of
from webui.page import build_page

OWNER = Account("ada", "owner", hashed("right and long"))
VIEWER = Account("bob", "viewer", hashed("only looking"))
ACCOUNTS = {each.name: each for each in (OWNER, VIEWER)}
PASSWORDS = {"ada": "right and long", "bob": "only looking"}


@pytest.fixture(scope="module")
def page():
    return build_page(sharing=Sharing({}, Sessions(Path("nowhere"), {}), "en"))


@pytest.fixture
def opened(page, tmp_path):
    """Clients of a fresh server: ``opened()``, each with cookies of its own."""

    def open_server(accounts=ACCOUNTS, attempts=None):
        sessions = Sessions(tmp_path / "saves" / ".access" / "sessions.json", accounts)
        about = {"accounts": accounts, "sessions": sessions, "for_viewers": allowed(page.fns), "attempts": attempts}
        app = App.create_app(page, app_kwargs={"middleware": [Middleware(Door, **about)]}, mcp_server=False)
        return TestClient(app, follow_redirects=False)

    return open_server


def sign_in(client, name, said=None):
    return client.post("/login", data={"name": name, "password": PASSWORDS[name] if said is None else said})


def test_nobody_is_let_in_without_a_session(opened):
    client = opened()
    asked = 0
    paths = routes_of(client.app)
    for path in sorted(paths | {"/", "/login", "/gradio_api/run/predict", "/gradio_api/upload", "/assets/x.js"}):
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            if (path, method) in (("/login", "POST"), ("/logout", "POST")):
                continue
            answer = client.request(method, path, json={}, cookies={COOKIE: "guessed"})
            assert answer.status_code == 401, (method, path)
            asked += 1
    assert asked > 400
    form = client.get("/", headers={"accept": "text/html", "accept-language": "ko"})
    assert form.status_code == 401 and words("access.title", "ko") in form.text and 'lang="ko"' in form.text
    assert "gradio" not in form.text


def test_a_session_lasts_over_a_restart_and_ends_with_the_password(opened, tmp_path):
    client = opened()
    answer = sign_in(client, "ada")
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    assert client.get("/config").status_code == 200
    token = client.cookies[COOKIE]
    file = tmp_path / "saves" / ".access" / "sessions.json"
    assert token not in file.read_text() and "right" not in file.read_text()
    assert file.parent.stat().st_mode & 0o77 == 0

    restarted = opened()
    restarted.cookies.set(COOKIE, token)
    assert restarted.get("/config").status_code == 200
    changed = opened({**ACCOUNTS, "ada": Account("ada", "owner", hashed("another one"))})
    changed.cookies.set(COOKIE, token)
    assert changed.get("/config").status_code == 401

    assert restarted.post("/logout").status_code == 303
    restarted.cookies.set(COOKIE, token)
    assert restarted.get("/config").status_code == 401
    file.write_text('{"torn')
    assert opened().get("/config").status_code == 401
    secure = opened().post("/login", data={"name": "ada", "password": "right and long"},
                           headers={"x-forwarded-proto": "https"})  # fmt: skip
    assert "Secure" in secure.headers["set-cookie"]


def test_a_viewer_sets_off_only_what_is_on_the_list(opened, page):
    client = opened()
    sign_in(client, "bob")
    assert client.get("/config").status_code == 200
    events = {number: event for number, event in page.fns.items() if event.fn}
    mutating = 0
    for number, event in events.items():
        for path in EVENTS:
            body = {"fn_index": number, "data": [], "session_hash": "s", "event_data": None}
            answer = client.post(path, json=body, headers={"x-lathe-role": "owner"})
            if name_of(event) in FOR_VIEWERS:
                assert answer.status_code != 403, name_of(event)
            else:
                assert answer.status_code == 403 and answer.json()["error"] == words("access.owners_only")
                mutating += 1
    assert mutating > 100
    names = {name_of(event) for event in events.values()}
    assert names >= FOR_VIEWERS, "an event on the list that the page does not have"
    for started in ("_on_start", "_on_load", "_on_stop_now", "_on_register", "_on_clean", "_on_discard", "_on_create",
                    "_on_remove", "_on_resume", "_on_repeat", "_on_diagnose", "_on_queue", "_on_vote"):  # fmt: skip
        assert not any(name.endswith(started) for name in FOR_VIEWERS)


def test_a_viewer_finds_no_other_way(opened, page):
    client = opened()
    sign_in(client, "bob")
    start = next(number for number, event in page.fns.items() if name_of(event) == "tab_train.TrainTab._on_start")
    seen = next(number for number, event in page.fns.items() if name_of(event) == "notify._looked")
    twice = f'{{"fn_index": {start}, "data": [], "session_hash": "s", "fn_index": {seen}}}'
    bodies = [b"", b"[]", b"{", b'{"fn_index": true}', b'{"fn_index": "%d"}' % seen, b'{"data": []}', b"[" * 100_000]
    for body in bodies:
        assert client.post(EVENTS[0], content=body).status_code == 403
    assert client.post(EVENTS[0], content=twice.encode()).status_code != 403  # the last one counts, here as there
    other_way = f'{{"fn_index": {seen}, "data": [], "session_hash": "s", "fn_index": {start}}}'
    assert client.post(EVENTS[0], content=other_way.encode()).status_code == 403
    for path in ("/gradio_api/upload", "/gradio_api/call/predict", "/gradio_api/run/_on_start", "/gradio_api/reset",
                 "/gradio_api/run/predict/", "//gradio_api/run/predict", "/gradio_api/component_server"):  # fmt: skip
        assert client.post(path, json={"fn_index": seen, "data": []}).status_code == 403, path


def test_wrong_passwords_are_slowed_down(opened, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        door_module, "signed_in", lambda accounts, name, said: looked_at.append(said) or signed_in(accounts, name, said)
    )
    now = [0.0]
    client = opened(attempts=Attempts(lambda: now[0]))
    codes = [sign_in(client, "ada", f"guess {number}").status_code for number in range(200)]
    free = LIMITS[False].free
    assert codes == [401] * free + [429] * (200 - free) and len(looked_at) == free
    assert int(sign_in(client, "ada", "guess").headers["retry-after"]) >= 1
    assert sign_in(client, "ada").status_code == 429, "the right one has to wait as well"
    for _ in range(20):
        now[0] += LIMITS[False].most_s
        sign_in(client, "ada", "wrong again")
    now[0] += LIMITS[False].most_s - 1
    assert sign_in(client, "ada").status_code == 429
    now[0] += 1
    assert sign_in(client, "ada").status_code == 303


def test_ten_thousand_wrong_passwords_are_hardly_looked_at():
    """As fast as they can be sent, for a day: one hour's worth of waiting lets few through."""
    now, tried = [0.0], 0
    attempts = Attempts(lambda: now[0])
    for _ in range(10_000):
        now[0] += 8.64
        if not attempts.wait_s("10.0.0.1"):
            attempts.failed("10.0.0.1")
            tried += 1
    assert tried < 150


def test_many_addresses_slow_one_another_but_never_for_long():
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for number in range(1000):
        attempts.failed(f"10.0.0.{number}")
    assert 0 < attempts.wait_s("192.168.0.1") <= LIMITS[True].most_s
    now[0] += LIMITS[True].most_s
    assert attempts.wait_s("192.168.0.1") == 0
    attempts.succeeded("10.0.0.1")
    now[0] += 7200
    attempts.failed("10.0.0.1")
    assert attempts.wait_s("10.0.0.1") == 0, "what is an hour old is forgotten"


def test_a_long_form_and_a_long_event_are_refused(opened):
    client = opened()
    assert client.post("/login", content=b"name=ada&password=" + b"x" * 20_000).status_code == 401
    sign_in(client, "bob")
    assert client.post(EVENTS[0], content=b'{"fn_index": 1, "data": "' + b"x" * 10_000_001 + b'"}').status_code == 403


def test_accounts_of_a_file(tmp_path, monkeypatch, capsys):
    typed = iter(("right and long", "right and long"))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    assert password(["ada"], "en") == 0
    line = capsys.readouterr().out.strip()
    file = tmp_path / "accounts"
    file.write_text(f"# who may come\n\n{line}\nbob:viewer:{VIEWER.hash}\n")
    accounts = read_accounts(file)
    assert [(each.name, each.role) for each in accounts.values()] == [("ada", "owner"), ("bob", "viewer")]
    assert signed_in(accounts, "ada", "right and long") == accounts["ada"]
    long = "x" * 5000
    assert signed_in({"ada": Account("ada", "owner", hashed(long))}, "ada", long), "a long one is compared whole"
    assert signed_in({"ada": Account("ada", "owner", hashed(long))}, "ada", long[:-1]) is None
    assert signed_in(accounts, "ada", "right and long ") is signed_in(accounts, "eve", "") is None
    broken = {
        f"{line}\n{line}": "access.file_line", f"ada:admin:{OWNER.hash}": "access.file_line",
        "ada:owner:right and long": "access.file_line", "ada": "access.file_line",
        f"bob:viewer:{VIEWER.hash}": "access.file_without_owner", "": "access.file_without_owner",
    }  # fmt: skip
    for text, key in broken.items():
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            read_accounts(file)
        assert caught.value.key == key
    with pytest.raises(UserError) as caught:
        read_accounts(tmp_path / "gone")
    assert caught.value.key == "access.file_unreadable"


def test_a_password_is_asked_for_twice_and_never_an_argument(monkeypatch, capsys):
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "short")
    with pytest.raises(UserError, match="8"):
        password(["ada"], "en")
    typed = iter(("long enough", "long enouhg"))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    with pytest.raises(UserError):
        password(["ada", "viewer"], "en")
    for arguments in ([], ["a:b"], ["ada", "king"], ["ada", "viewer", "secret"], ["#ada"]):
        assert password(arguments, "en") == 2
    assert "scrypt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "needs"),
    [({}, False), ({"host": "localhost"}, False), ({"host": "::1"}, False), ({"host": "127.0.0.5"}, False),
     ({"host": "0.0.0.0"}, True), ({"host": "::"}, True), ({"host": "192.168.1.7"}, True), ({"host": "box.lan"}, True),
     ({"host": "x.localhost"}, True),     ({"share": True}, True), ({"auth_file": "accounts"}, True)],
)  # fmt: skip
def test_a_page_that_others_can_reach_has_a_door(options, needs):
    assert needs_door(Serve(**options)) is needs


@pytest.mark.parametrize("name", ["ada", "Михаил", "민수", "a b%c\r\nx-lathe-role: owner"])
def test_a_name_in_any_letters_reaches_the_page_whole(name):
    claimed = [(b"x-lathe-role", b"owner"), (b"x-lathe-name", b"eve"), (b"accept", b"*/*")]
    scope = door_module._told({"type": "http", "headers": claimed}, Account(name, "viewer", ""))
    request = Request(scope)
    assert (door_module.name_of_visitor(request), door_module.role_of(request)) == (name, "viewer")
    assert len(request.headers) == 3


def test_the_events_of_a_browser_carry_their_number(page):
    """What the door looks at is what gradio acts on: its own client names events by number at these two places."""
    body = json.dumps({"fn_index": 1, "data": []})
    assert door_module._event(body.encode()) == (1, body.encode())


def test_a_changed_file_of_accounts_counts_at_once(opened, tmp_path):
    """Over the door, with sessions that go on; and a file that is not right changes nothing."""
    path, faults = tmp_path / "accounts", []

    def write(*accounts: Account) -> None:
        path.write_text("".join(f"{each.name}:{each.role}:{each.hash}\n" for each in accounts))

    write(OWNER, VIEWER)
    client_of = {name: opened(AccountsFile(path, faults.append)) for name in PASSWORDS}
    for name, client in client_of.items():
        assert sign_in(client, name).status_code == 303 and client.get("/config").status_code == 200
    path.write_text("nonsense")
    assert client_of["bob"].get("/config").status_code == 200
    assert client_of["bob"].get("/config").status_code == 200
    assert [error.key for error in faults] == ["access.file_line"], "told once"
    path.unlink()
    assert client_of["ada"].get("/config").status_code == 200 and faults[-1].key == "access.file_unreadable"
    write(OWNER)
    assert client_of["bob"].get("/config").status_code == 401 and sign_in(client_of["bob"], "bob").status_code == 401
    assert client_of["ada"].get("/config").status_code == 200
    write(OWNER, VIEWER)
    assert sign_in(client_of["bob"], "bob").status_code == 303
    write(OWNER, Account("bob", "owner", VIEWER.hash))
    assert client_of["bob"].get("/config").status_code == 401, "another role is another account"
    write(Account("ada", "owner", hashed("another")))
    assert client_of["ada"].get("/config").status_code == 401


def test_a_file_of_accounts_is_right_when_the_page_is_started(tmp_path):
    (tmp_path / "accounts").write_text("bob:viewer:x")
    with pytest.raises(UserError):
        AccountsFile(tmp_path / "accounts", print)
