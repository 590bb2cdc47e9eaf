"""Thousands of malformed requests at every route that takes one: no traceback in an answer, no fault of ours, no death.

What gradio itself answers with 500 to bodies that its own browser part never sends is counted, and listed in
docs/security.md; none may come from our code.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import httpx
import pytest
from gradio.routes import App

from tests.conftest import PROJECT
from tests.security.attack import JOIN, RUN, leaks, routes_of
from webui.access.viewers import EVENTS

REQUESTS = 3000
SEED = 20_26
OURS = re.compile(
    rf'File "{re.escape(str(PROJECT))}/(?:engine|terminal|webui/(?!access/|gathering|visit|frontend))[^"]*", line'
)
"""Frames of our code, but for what every request passes on its way to gradio."""
CALLS_OUT = ("/gradio_api/vibe", "/gradio_api/run-history")


def odd_value(dice: random.Random, depth: int = 0):
    kinds = [
        None, True, False, 0, -1, 2**63, 10**30, -(10**200), 1.5, float("inf"), float("-inf"), float("nan"), "", "x",
        "\0", "\ud800", "é\u202e🦆", "a" * 10_000, "../../etc/passwd", "${7*7}", [], {}, [None], {"": ""},
        {"__type__": "update"},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, {"value": 1}, [[[]]], {"name": "../x"}, "null",
        "[]",
        {"headers": ["a"], "data": [["b"]]}, "1e999", "-0", "0x10", b"\xff".decode("latin-1"),
    ]  # fmt: skip
    if depth < 3 and dice.random() < 0.3:
        inner = [odd_value(dice, depth + 1) for _ in range(dice.randrange(4))]
        return inner if dice.random() < 0.5 else {str(number): each for number, each in enumerate(inner)}
    return dice.choice(kinds)


def odd_event(dice: random.Random, target, who: str | None) -> dict:
    names = [name for name in target.events if who != "bob" or name in EVENTS or dice.random() < 0.2]
    number = target.events[dice.choice(names)]
    wanted = target.inputs[number]
    data = [odd_value(dice) for _ in range(wanted + dice.choice((0, 0, 0, 0, 1, -1)))]
    if wanted == 1 and dice.random() < 0.5:
        data = [json.dumps([odd_value(dice) for _ in range(dice.randrange(20))])]
    body = {
        "fn_index": number,
        "data": data,
        "session_hash": f"fuzz{dice.randrange(1000)}",
        "event_data": odd_value(dice),
    }
    for name in (
        "trigger_id",
        "batched",
        "event_id",
        "simple_format",
        "session_hash",
        "data",
        "fn_index",
        "oauth_token",
    ):
        if dice.random() < 0.05:
            body[name] = odd_value(dice)
        elif dice.random() < 0.03:
            body.pop(name, None)
    return body


def odd_request(dice: random.Random, target, routes: list[str], who: str | None) -> dict:
    body = odd_event(dice, target, who)
    url = dice.choice((RUN, JOIN, RUN, dice.choice(routes)))
    text = json.dumps(body).encode()
    multipart = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
    way = dice.randrange(9)
    if way < 4:
        content, kind = text, "application/json"
    elif way == 4:
        content, kind = text[: dice.randrange(len(text))], "application/json"
    elif way == 5:
        content, kind = (
            dice.randbytes(dice.randrange(2000)),
            dice.choice(("application/json", "", "text/plain", "\xff/x")),
        )
    elif way == 6:
        content, kind = multipart[: dice.randrange(len(multipart))], "multipart/form-data; boundary=x"
    elif way == 7:
        mixed = bytearray(text)
        for _ in range(5):
            mixed[dice.randrange(len(mixed))] = dice.randrange(256)
        content, kind = bytes(mixed), "application/json"
    else:
        content, kind = (
            text,
            dice.choice(("multipart/form-data", "application/x-www-form-urlencoded", "application/xml")),
        )
    headers = {"content-type": kind.encode("latin-1"), "connection": "close"}
    return {"url": url, "content": content, "headers": headers}


@pytest.fixture(scope="module")
def routes(page) -> list[str]:
    table = routes_of(App.create_app(page, mcp_server=False))
    asked = (path for path in table if path.startswith("/gradio_api") and not path.startswith(CALLS_OUT))
    return [*sorted(asked), "/login"]


@pytest.fixture(scope="module")
def apart(serving, tmp_path_factory, fort):
    """A server of its own: what a thousand mad requests leave behind is nobody else's."""
    folder = tmp_path_factory.mktemp("mad")
    (folder / "models").symlink_to(fort / "models")
    (folder / "data").mkdir()
    (folder / "data" / "dataset_info.json").write_text("{}")
    (folder / "accounts").write_text((fort / "accounts").read_text())
    return serving(folder)


@pytest.mark.parametrize("who", ["ada", "bob", None])
def test_thousands_of_malformed_requests(apart, routes, who):
    dice = random.Random(f"{SEED}{who}")
    log = next(apart.workplace.glob("server-*.log"))
    codes: Counter = Counter()
    number = REQUESTS if who == "ada" else REQUESTS // 3
    client = apart.client(who)
    for _ in range(number):
        request = odd_request(dice, apart, routes, who)
        try:
            with client.stream("POST", **request, timeout=60) as answer:
                text = "".join(part for part, _ in zip(answer.iter_text(), range(20), strict=False))
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            codes["hung up"] += 1
            print("HUNG", repr(error), request["url"], request["headers"], request["content"][:150])
            continue
        codes[answer.status_code] += 1
        assert "Traceback" not in text and 'File "' not in text and not leaks(text), (request, text[:500])
        assert who or answer.status_code in (401, 429), request
    print(who, codes)
    assert apart.is_alive()
    assert codes["hung up"] < number / 50, codes
    faults = [
        each for each in log.read_text(errors="replace").split("Traceback (most recent call last):") if ours(each)
    ]
    assert faults == [], f"{len(faults)} faults of ours, {codes}\n" + "\n=====\n".join(
        each[-1500:] for each in faults[:12]
    )


def ours(traceback: str) -> bool:
    """Whether an exception came up in our code, not in what gradio makes of a body before it calls us."""
    return OURS.search(traceback) is not None


@pytest.mark.parametrize("path", [RUN, JOIN, "/gradio_api/upload", "/login", "/gradio_api/component_server"])
def test_a_body_that_never_comes(apart, path):
    """A promised length that is not sent keeps nobody else waiting."""
    import socket
    from urllib.parse import urlsplit

    host, port = urlsplit(apart.address).netloc.split(":")
    wires = []
    for _ in range(20):
        wire = socket.create_connection((host, int(port)), timeout=20)
        wire.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{{".encode())
        wires.append(wire)
    assert apart.is_alive()
    for wire in wires:
        wire.close()
    assert apart.is_alive()
