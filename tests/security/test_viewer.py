"""A viewer, signed in as he should be, tries to do what only an owner may: by every route, body and trick."""

from __future__ import annotations

import gzip
import json
import threading

import httpx
import pytest
from gradio.routes import App

from engine.words import LANGUAGES, words
from tests.security.attack import JOIN, RUN, routes_of, told
from webui.access.viewers import EVENTS, name_of

START = "tab_train.TrainTab._on_start"
SEEN = "page._speak.<locals>.switch"
OWNERS_ONLY = {words("access.owners_only", language) for language in LANGUAGES}


@pytest.fixture(scope="module")
def viewer(target):
    return target.client("bob")


@pytest.fixture(scope="module")
def forbidden(target) -> dict[str, int]:
    found = {name: number for name, number in target.events.items() if name not in EVENTS}
    assert len(found) > 70 and START in found
    return found


def snapshot(target) -> set[str]:
    """What lies in the workplace, but for what the server itself writes."""
    return {str(path) for path in target.workplace.rglob("*") if ".access" not in path.parts and path.suffix != ".log"}


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.json()["error"] in OWNERS_ONLY


def test_every_other_event_by_number_by_both_routes(target, viewer, page):
    before, refused = snapshot(target), 0
    for number, event in page.fns.items():
        if not event.fn or name_of(event) in EVENTS:
            continue
        for path in (RUN, JOIN):
            for more in ({}, {"batched": True}, {"trigger_id": 1}, {"simple_format": True, "event_id": "x"}):
                body = {"fn_index": number, "data": [], "session_hash": "viewer", "event_data": None, **more}
                assert is_refused(viewer.post(path, json=body)), (number, path, more)
                refused += 1
    assert refused > 900 and snapshot(target) == before


def test_every_event_by_name_by_every_route_that_posts(target, viewer, page):
    """Names of events instead of numbers, at all routes of the app's own table."""
    names = {str(event.api_name) for event in page.fns.values() if event.fn} | {"predict", "_on_start", "0", "1"}
    routes = [path for path in routes_of(App.create_app(page, mcp_server=False)) if "/x" in path]
    assert "/gradio_api/run/x" in routes and "/gradio_api/call/v2/x" in routes
    start, before = target.events[START], snapshot(target)
    for route in routes:
        for name in sorted(names)[:40]:
            for body in ({"data": []}, {"data": [], "fn_index": start, "session_hash": "viewer"}):
                answer = viewer.post(route.replace("/x", f"/{name}", 1), json=body)
                assert is_refused(answer) or (route, name) == ("/gradio_api/run/x", "predict"), (route, name)
    assert snapshot(target) == before


def test_every_route_and_method_that_is_not_reading(target, viewer, page):
    before = snapshot(target)
    for path in routes_of(App.create_app(page, mcp_server=False)) | {"/gradio_api/mcp", "/x"}:
        for method in ("POST", "PUT", "DELETE", "PATCH", "BREW"):
            if path in (RUN, JOIN, "/login", "/logout") and method == "POST":
                continue
            for form in ({"json": {"data": [], "fn_index": 1}}, {"files": {"files": ("x.sh", b"id", "text/plain")}}):
                assert is_refused(viewer.request(method, path, **form)), (method, path)
    for path in (RUN, JOIN):  # a tick of the page, but not as an event is sent
        for method in ("PUT", "PATCH", "DELETE"):
            assert is_refused(viewer.request(method, path, json={"fn_index": target.events[SEEN], "data": ["en"]}))
    assert snapshot(target) == before


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/deep_link?session_hash=owners", "/gradio_api/proxy=https://x.hf.space/y", "/monitoring",
     "/monitoring/x", "/monitoring/summary", "/gradio_api/file=http://169.254.169.254/latest", "/gradio_api/file=HTTPS://example.com/x",
     "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/custom_component/x/server/y/z", "/gradio_api/vibe-code",
     "/gradio_api/upload_progress?upload_id=x", "/gradio_api/queue/status", "/openapi.json", "/gradio_api/openapi.json",
     "/gradio_api/call/predict/x", "/gradio_api/call/v2/predict/x", "/gradio_api/file/x", "/gradio_api/dev/reload"],
)  # fmt: skip
def test_reading_that_writes_or_asks_others(viewer, path):
    """Some of gradio's GET routes write files, fetch what an address names, or tell how the page is used."""
    assert is_refused(viewer.get(path)) and viewer.head(path).status_code == 403


@pytest.mark.parametrize(
    "path",
    ["accounts", "/etc/passwd", "saves/.access/sessions.json", "../accounts", "data/dataset_info.json", "server.log"],
)
def test_files_are_not_read_by_their_name(target, viewer, path):
    """Neither a viewer nor an owner has the page hand out what it has not made for the browser."""
    for name in (path, str(target.workplace / path), f"{target.workplace}/data/../{path}"):
        for client in (viewer, target.client("ada")):
            answer = client.get(f"/gradio_api/file={name}")
            assert answer.status_code in (403, 404) and "scrypt" not in answer.text and "root:" not in answer.text


def tricks(start: int, seen: int) -> dict[str, bytes]:
    """Bodies in which a careless reader sees ``seen``, and gradio might act on ``start``."""

    def body(**more) -> str:
        return json.dumps({"data": ["en"], "session_hash": "trick", "event_data": None, **more})

    twice = f'{{"fn_index": {seen}, "data": [], "session_hash": "trick", "fn_index": {start}}}'
    return {
        "the last of two": twice.encode(),
        "an escaped name": twice.replace('"fn_index": ' + str(seen), '"fn_index": 1').replace(
            'trick", "fn_index"', 'trick", "fn\\u005findex"').encode(),
        "another case": body(FN_INDEX=start).encode(),
        "a float": body(fn_index=float(start)).encode(), "a text": body(fn_index=str(start)).encode(),
        "true": body(fn_index=True).encode(),
        "null": body(fn_index=None).encode(),
        "a list": body(fn_index=[seen]).encode(),
        "a mapping": body(fn_index={"$gt": 0}).encode(), "negative": body(fn_index=-1).encode(),
        "exponent": body().replace('"data"', f'"fn_index": {seen}e0, "data"').encode(),
        "a big number": body(fn_index=2**64 + seen).encode(), "very big": body(fn_index=10**4000).encode(),
        "beyond big": b'{"data": [], "session_hash": "t", "fn_index": 1' + b"0" * 5000 + b"}",
        "NaN": b'{"data": [], "session_hash": "t", "fn_index": NaN}',
        "Infinity": b'{"data": [], "session_hash": "t", "fn_index": Infinity}',

        "none at all": body().encode(), "a list of events": f"[{body(fn_index=seen)}]".encode(),
        "two texts": (body(fn_index=seen) + body(fn_index=start)).encode(),
        "lines": (body(fn_index=seen) + "\n" + body(fn_index=start)).encode(),
        "a comment": (body(fn_index=seen)[:-1] + f'/*"*/, "fn_index": {start}}}').encode(),
        "a zero byte": body(fn_index=start).encode() + b"\0",
        "deep": b"[" * 200_000,
        "deep within": b'{"fn_index": %d, "data": %s}' % (start, b"[" * 990 + b"]" * 990),
        "UTF-16": body(fn_index=start).encode("utf-16"),
        "UTF-32": body(fn_index=start).encode("utf-32"),
        "UTF-7": body(fn_index=start).replace("{", "+AHs-").encode(),
        "gzip": gzip.compress(body(fn_index=start).encode()),
        "a mark before": b"\xef\xbb\xbf" + body(fn_index=start).encode(),
        "no UTF-8": b'{"fn_index": %d, "\xff": 1}' % start,
        "a form": f"fn_index={seen}&fn_index={start}&data=[]".encode(), "nothing": b"",
    }  # fmt: skip


KINDS = (
    "application/json", "text/plain", "multipart/form-data; boundary=x", None, "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
)  # fmt: skip


@pytest.mark.parametrize("content_type", KINDS)
def test_tricks_with_the_body(target, viewer, forbidden, content_type):
    start, seen, before = forbidden[START], target.events[SEEN], snapshot(target)
    headers = {"content-type": content_type} if content_type else {}
    for why, body in tricks(start, seen).items():
        for path in (RUN, JOIN, f"{RUN}?fn_index={start}", f"{JOIN}?fn_index={start}&__theme=x"):
            encoding = {"content-encoding": "gzip"} if why == "gzip" else {}
            answer = viewer.post(path, content=body, headers={**headers, **encoding})
            assert is_refused(answer), (why, path, answer.status_code)
    assert snapshot(target) == before


def test_what_a_viewer_may_do_is_read_on_as_it_was_looked_at(target, viewer, forbidden):
    """The other way round: two numbers of which the last is his, and text that another reader takes otherwise."""
    start, seen = forbidden[START], target.events[SEEN]
    text = f'{{"fn_index": {start}, "data": [null, "ko"], "session_hash": "x", "\\u0066n_index": {seen}}}'
    for body in (text.encode(), text.encode("utf-16"), text.encode("utf-8-sig")):
        answer = viewer.post(RUN, content=body, headers={"content-type": "application/json"})
        assert is_refused(answer) or (answer.status_code == 200 and "학습" in answer.text)


def test_with_the_session_of_an_owner(target, viewer, forbidden):
    """Even who knew the name of an owner's tab would set nothing off in it."""
    owner = target.client("ada")
    told(owner, target.events["page.build_page.<locals>.<lambda>"], [], "owners-tab")
    before = snapshot(target)
    for name in (START, "tab_chat.ChatTab._on_load", "data_register.DataRegister._on_register"):
        number = forbidden.get(name)
        for path in (RUN, JOIN) if number else ():
            for hash_ in ("owners-tab", "owners-tab\0", ["owners-tab"]):
                body = {"fn_index": number, "data": [], "session_hash": hash_}
                assert is_refused(viewer.post(path, json=body, headers={"x-lathe-role": "owner"}))
    for path in ("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/stream/owners-tab/close"):
        assert is_refused(viewer.post(path, json={"session_hash": "owners-tab", "fn_index": 1, "event_id": "x"}))
    assert snapshot(target) == before


def part(component: str, value, **settings) -> dict:
    return {"type": "component", "component": component, "value": value, "props": {}, "constructor_args": settings}


def test_a_conversation_that_is_no_text(target, viewer, fort):
    """Gradio's chatbot makes components of what a browser calls one, copies files it names and fetches addresses."""
    secret = fort / "accounts"
    contents = [
        part(name, value)
        for name in ("file", "image", "video", "audio", "html", "gallery", "model3d", "code", "json", "downloadbutton")
        for value in ({"path": str(secret)}, {"path": "accounts"}, str(secret), [str(secret)], {"url": "http://[::1]/"})
    ]
    contents += [part("html", "x", js_on_load="window.hit = 1"), part("timer", 0.001), part("../file", "x")]
    contents += [{"type": "file", "file": {"path": str(secret)}}, {"path": str(secret)}, {"type": "text", "text": 1}]
    contents += [{"type": "file", "file": {"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}}}]
    for number, content in enumerate(contents):
        for talk in ([{"role": "user", "content": [content]}], [{"role": "user", "content": content}]):
            data = [json.dumps(["q", talk, {"name": ""}, False])]
            body = {"fn_index": target.events["chat_room._take"], "data": data, "session_hash": f"no-text-{number}"}
            answer = viewer.post(RUN, json=body)
            assert answer.status_code == 500 and answer.json()["error"] == "not-sent-by-this-page", (
                content,
                answer.text,
            )
    assert not list((fort / "cache").rglob("accounts")), "a file was copied to where it can be fetched"
    talk = [{"role": "assistant", "content": [{"type": "text", "text": "hi"}]}]
    data = [json.dumps(["q", talk, {"name": ""}, False])]
    body = {"fn_index": target.events["chat_room._take"], "data": data, "session_hash": "text"}
    said = viewer.post(RUN, json=body).json()["data"][1]
    assert [turn["content"][0]["text"] for turn in said] == ["hi", "q"]


def test_uploads_of_a_viewer_never_arrive(target, viewer):
    before = snapshot(target)
    for path in ("/gradio_api/upload", "/gradio_api/upload?upload_id=x", "/upload", "/gradio_api/process_recording",
                 "/gradio_api/component_server"):  # fmt: skip
        answer = viewer.post(path, files={"files": ("../../accounts", b"eve:owner:x", "text/plain")})
        assert is_refused(answer)
    assert snapshot(target) == before


def test_a_hundred_refusals_at_once_let_none_through(target, forbidden):
    codes: list[int] = []

    def attack() -> None:
        client = target.client("bob")
        for _ in range(10):
            body = {"fn_index": forbidden[START], "data": [], "session_hash": "many"}
            codes.append(client.post(JOIN, json=body).status_code)

    threads = [threading.Thread(target=attack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [403] * 80 and target.is_alive()
