"""Ten thousand wrong passwords, by every address and name: hardly any is looked at, and the owner still gets in."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

import engine.catalog.accounts as accounts_module
import webui.access.door as door_module
from engine.catalog.accounts import Account, signed_in
from tests.loops import run
from tests.security.attack import ACCOUNTS, PASSWORDS
from webui.access.attempts import LIMITS, Attempts
from webui.access.door import COOKIE, KNOWN, Door
from webui.access.sessions import Sessions

TRIES = 10_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """Names whose passwords were looked at; scrypt is left out, which the numbers here would make a day of."""
    seen: list[str] = []

    def quick(accounts: dict[str, Account], name: str, said: str) -> Account | None:
        seen.append(name)
        return accounts[name] if PASSWORDS.get(name) == said else None

    monkeypatch.setattr(door_module, "signed_in", quick)
    return seen


@pytest.fixture
def door(tmp_path, clock) -> Door:
    sessions = Sessions(tmp_path / "sessions.json", ACCOUNTS)
    return Door(PlainTextResponse("inside"), ACCOUNTS, sessions, (), attempts=Attempts(clock))


@pytest.fixture
def visitor(door):
    """Browsers at one door: ``visitor(address)``."""
    return lambda address="203.0.113.1": TestClient(door, client=(address, 1), follow_redirects=False)


def try_in(client, name="ada", said="wrong") -> int:
    return client.post("/login", data={"name": name, "password": said}).status_code


async def knock(door: Door, address: str, name: str = "ada") -> int:
    """A wrong password, without the weight of a client."""
    said: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": f"name={name}&password=guess".encode(), "more_body": False}

    async def send(message: dict) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "scheme": "http", "headers": [],
             "client": (address, 1), "server": ("x", 80)}  # fmt: skip
    await door(scope, receive, send)
    return said[0]["status"]


def flood(door: Door, clock: Clock, addresses: list[str], every_s: float = 1.0) -> list[int]:
    async def all_of_them() -> list[int]:
        codes = []
        for number in range(TRIES):
            clock.now += every_s
            name = ("ada", "bob", "root", "")[number // len(addresses) % 4]
            codes.append(await knock(door, addresses[number % len(addresses)], name))
        return codes

    return run(all_of_them())


@pytest.mark.parametrize("address", ["203.0.113.1", "127.0.0.1"])
def test_from_one_address(door, clock, looked_at, address):
    """One a second for three hours; the door itself is asked each time."""
    codes = flood(door, clock, [address])
    assert set(codes) == {401, 429} and codes.count(401) == len(looked_at)
    most = 30 if address != "127.0.0.1" else 20 + 5 + TRIES / LIMITS[True].most_s
    assert len(looked_at) <= most, "through a tunnel all are one, and nobody may be kept out for long"


def test_from_as_many_addresses_as_tries(door, clock, looked_at):
    flood(door, clock, [f"198.51.{number // 250}.{number % 250}" for number in range(TRIES)])
    assert len(looked_at) <= 20 + 5 + TRIES / LIMITS[True].most_s


def test_all_at_once(door, looked_at):
    """Before any of them has been answered."""

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(knock(door, "203.0.113.9") for _ in range(500)))

    codes = run(all_of_them())
    assert codes.count(401) == LIMITS[False].free == len(looked_at)


def test_the_owner_is_not_kept_out(door, visitor, clock, looked_at):
    """While the flood goes on: at once in a browser that was in before, and within seconds in a new one."""
    known = visitor("192.0.2.7")
    assert try_in(known, said=PASSWORDS["ada"]) == 303
    flood(door, clock, ["127.0.0.1", "203.0.113.1", "203.0.113.2"], every_s=0.01)
    del known.cookies[COOKIE]
    assert try_in(known, said=PASSWORDS["ada"]) == 303
    elsewhere = visitor("192.0.2.8")
    clock.now += LIMITS[True].most_s
    assert try_in(elsewhere, said=PASSWORDS["ada"]) == 303, "and a new one waits ten seconds at most"
    tunnel = visitor("127.0.0.1")
    for _ in range(50):
        clock.now += 1000
        try_in(tunnel)
    clock.now += LIMITS[True].most_s
    assert try_in(tunnel, said=PASSWORDS["ada"]) == 303


def test_a_known_browser_is_no_way_to_guess(visitor, clock, looked_at):
    """Its mark belongs to one name and one password, opens nothing, and its own wrong ones are slowed down as well."""
    known = visitor()
    assert try_in(known, "bob", PASSWORDS["bob"]) == 303
    del known.cookies[COOKIE]
    assert known.get("/").status_code == 401
    looked_at.clear()
    codes = [try_in(known, "bob") for _ in range(200)]
    assert codes.count(401) == LIMITS[False].free == len(looked_at)
    attacker = visitor("203.0.113.5")
    for number in range(40):
        attacker.cookies.set(KNOWN, (known.cookies[KNOWN], "0" * 64, "")[number % 3])
        try_in(attacker, "ada")
    assert try_in(attacker, "ada") == 429
    odd = visitor("203.0.113.6").post(
        "/login", data={"name": "ada"}, headers={"cookie": f"{KNOWN}=\xe9".encode("latin-1")}
    )
    assert odd.status_code == 401


def test_many_right_ones_at_once_are_no_wrong_ones(visitor, looked_at):
    """A whole class signs in through one tunnel."""
    for _ in range(100):
        assert try_in(visitor("127.0.0.1"), "bob", PASSWORDS["bob"]) == 303


def test_the_same_work_for_a_name_that_is_there_and_one_that_is_not(monkeypatch):
    """Counted in calls: as many keys of the same cost, as long and compared as long."""
    asked: list[tuple] = []
    scrypt = hashlib.scrypt

    def counted(password: bytes, **about) -> bytes:
        asked.append((len(password), len(about["salt"]), *sorted((k, v) for k, v in about.items() if k != "salt")))
        return scrypt(password, **about)

    accounts_module._nobody()
    monkeypatch.setattr(accounts_module.hashlib, "scrypt", counted)
    compared: list[tuple[int, int]] = []
    compare = accounts_module.hmac.compare_digest
    monkeypatch.setattr(
        accounts_module.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or compare(a, b)
    )
    for name in ("ada", "nobody", "", "ada\0", "Ada"):
        assert signed_in(ACCOUNTS, name, "wrong") is None
    assert len(asked) == 5 and len(set(asked)) == 1
    assert len(compared) == 5 and len(set(compared)) == 1


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(visitor, clock, looked_at):
    answers = []
    for name in ("ada", "nobody"):
        answer = visitor().post("/login", data={"name": name, "password": "wrong"})
        answers.append((answer.status_code, answer.text, {k: v for k, v in answer.headers.items() if k != "date"}))
    assert answers[0] == answers[1] and answers[0][0] == 401


@pytest.mark.parametrize(
    "body",
    [b"", b"name=ada", b"password=x", b"name=ada&name=ada&password=x&password=right and long", b"\xff\xfe", b"%00=%00",
     b"name=ada&password=" + b"x" * 9000, b"name[]=ada&password[]=x", b'{"name": "ada", "password": {"$ne": 1}}',
     b"name=ada%00&password=right and long", b"name=ada:owner&password=x", b"name=%ud800&password=%ed%a0%80"],
)  # fmt: skip
def test_odd_forms_are_wrong_passwords(tmp_path, body):
    """With the real scrypt: nothing that is sent makes it fall over, or lets anybody in."""
    door = Door(PlainTextResponse("inside"), ACCOUNTS, Sessions(tmp_path / "s.json", ACCOUNTS), ())
    answer = TestClient(door, follow_redirects=False).post("/login", content=body)
    assert answer.status_code == 401 and COOKIE not in answer.cookies
