"""Fifty visitors at once, reading and setting events off: all are answered, each with his own, and the server lives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx

from engine.words import LANGUAGES, words
from tests.security.attack import RUN, told
from webui.access.door import COOKIE

CROWD = 50


def test_fifty_at_once(target):
    """Each asks who he is in a language of his own, and types a text of his own; half of them are owners."""
    tokens = {who: target.client(who).cookies[COOKIE] for who in ("ada", "bob")}
    about, take = target.events["topbar._who"], target.events["chat_room._take"]
    languages = list(LANGUAGES)

    def visit(number: int) -> list[str]:
        faults = []
        who, role = (("ada", "owner"), ("bob", "viewer"))[number % 2]
        language, session = languages[number % len(languages)], f"crowd{number}"
        with httpx.Client(base_url=target.address, cookies={COOKIE: tokens[who]}, timeout=120, verify=False) as client:
            if client.get("/theme.css").status_code != 200 or client.get("/gradio_api/info").status_code != 200:
                faults.append("nothing to read")
            for turn in range(2):
                body = {"fn_index": about, "data": [language], "session_hash": session}
                said = client.post(RUN, json=body).json()["data"][0]
                if who not in said or words(f"access.{role}", language) not in said:
                    faults.append(f"{said} for {who} in {language}")
                text = f"typed by {number}, {turn}"
                data = [json.dumps([text, [], {"name": ""}, False])]
                said = told(client, take, data, f"{session}-{turn}")[-1]
                shown = said["output"]["data"][1][0]["content"][0]["text"]
                if shown != text:
                    faults.append(f"{shown} in place of {text}")
        return faults

    with ThreadPoolExecutor(CROWD) as pool:
        faults = [fault for each in pool.map(visit, range(CROWD)) for fault in each]
    assert faults == [] and target.is_alive()


def test_states_of_two_tabs_do_not_mix(target):
    """What one tab holds on the server, another does not see, whoever has it open."""
    owner, viewer = target.client("ada"), target.client("bob")
    clear, take = target.events["chat_room._on_clear"], target.events["chat_room._take"]
    names = set()
    for client, session in ((owner, "tab-a"), (viewer, "tab-b"), (owner, "tab-c")):
        data = [json.dumps([f"secret of {session}", [], {"name": ""}, False])]
        first = client.post(RUN, json={"fn_index": take, "data": data, "session_hash": session}).json()["data"]
        names.add(first[2]["name"])
        again = client.post(RUN, json={"fn_index": take, "data": data, "session_hash": session}).json()["data"]
        assert "secret" not in json.dumps(again), "that tab is busy with its question, the others are not"
    assert len(names) == 3
    body = {"fn_index": clear, "data": [{"name": ""}], "session_hash": "tab-b"}
    assert viewer.post(RUN, json=body).json()["data"][0] == []


def test_who_leaves_in_the_middle_harms_nobody(target):
    """Tabs that are closed while their events run."""
    owner = target.client("ada")
    arrive = target.events["page._watch_folders.<locals>.arrive"]
    for number in range(15):
        body = {
            "fn_index": target.events["page.build_page.<locals>.<lambda>"],
            "data": [],
            "session_hash": f"left{number}",
        }
        owner.post("/gradio_api/queue/join", json=body)
        try:
            with httpx.stream(
                "GET", f"{target.address}/gradio_api/queue/data?session_hash=left{number}", timeout=0.05,
                cookies={COOKIE: owner.cookies[COOKIE]}, verify=False,
            ) as stream:  # fmt: skip
                next(stream.iter_raw())
        except (httpx.TimeoutException, StopIteration):
            continue
    assert arrive and target.is_alive() and owner.get("/config").status_code == 200
