"""What an attacker has at hand: a door's address, ways to knock, and the secrets that he must not find."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from engine.catalog.accounts import Account, hashed
from engine.words import LANGUAGES, words
from webui.access.door import COOKIE
from webui.access.viewers import name_of

PASSWORDS = {"ada": "right and long", "bob": "only looking"}
ACCOUNTS = {name: Account(name, role, hashed(PASSWORDS[name])) for name, role in (("ada", "owner"), ("bob", "viewer"))}
SECRETS = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted1234", "MODELSCOPE_API_TOKEN": "ms-planted-5ab1e-modelscope-77",
    "OPENAI_API_KEY": "sk-proj-PlantedPlantedPlantedPlanted",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "API_KEY": "planted-key-of-the-api-9931", "SLACK_WEBHOOK": "https://hooks.slack.com/services/T00/B00/plantedhook77",
    "SWANLAB_API_KEY": "planted-swanlab-key-5512", "DB_PASSWORD": "planted%pass/word+88",
}  # fmt: skip
"""In the environment of the served page and of all that it starts."""

JOIN, RUN = "/gradio_api/queue/join", "/gradio_api/run/predict"
FROM_INSIDE = ('"dependencies"', "window.gradio_config", "elem_id", "Traceback", "gradio/templates", '.py"', "saves/")
"""Words that only a page that was let through, or a program that fell over, would say."""


@dataclass
class Target:
    """A served page. Args: workplace: its working directory; events: name → number of each of its events."""

    address: str
    workplace: Path
    events: dict[str, int]
    inputs: dict[int, int]  # number of an event → how many values it takes
    process: Any = None
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, who: str | None = None, **options: Any) -> httpx.Client:
        """A browser of its own; with a name, signed in."""
        client = httpx.Client(base_url=self.address, timeout=60, follow_redirects=False, verify=False, **options)
        self.clients.append(client)
        if who:
            answer = client.post("/login", data={"name": who, "password": PASSWORDS[who]})
            assert answer.status_code == 303, answer.text
        return client

    def is_alive(self) -> bool:
        with httpx.Client(base_url=self.address, timeout=30, verify=False) as client:
            return self.process.poll() is None and client.get("/", headers={"accept": "text/html"}).status_code == 401


def numbers_of(page: Any) -> tuple[dict[str, int], dict[int, int]]:
    """Names and numbers of a page's events, and how many values each takes; the same page is built everywhere alike."""
    events = {number: event for number, event in page.fns.items() if event.fn}
    names: dict[str, int] = {}
    for number, event in events.items():
        names.setdefault(name_of(event), number)
    config = {event["id"]: event for event in page.get_config_file()["dependencies"]}
    return names, {number: len(config[number]["inputs"]) for number in events}


def routes_of(app: Any) -> set[str]:
    """The paths in an app's own table, those of the routers within it too, with "x" in place of each parameter."""
    found = {re.sub(r"\{[^}]*\}", "x", route.path) for route in app.routes if getattr(route, "path", None)}
    inner = [router for route in app.routes if (router := getattr(route, "original_router", None))]
    return found.union(*(routes_of(router) for router in inner))


def told(client: httpx.Client, number: int, data: list[Any], session: str, **more: Any) -> list[dict[str, Any]]:
    """All that the page says of an event that was set off through its queue, to the end."""
    body = {"fn_index": number, "data": data, "session_hash": session, "event_data": None, **more}
    answer = client.post(JOIN, json=body)
    assert answer.status_code == 200, answer.text
    said = []
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                said.append(json.loads(line[5:]))
                if said[-1]["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                    break
    return said


def refusals(key: str) -> set[str]:
    return {words(key, language) for language in LANGUAGES}


def leaks(text: str | bytes) -> list[str]:
    """Which planted secrets a text holds."""
    text = text.encode() if isinstance(text, str) else text
    return [name for name, secret in SECRETS.items() if secret.encode() in text]


def forged_cookies(token: str) -> Iterator[str]:
    """Cookies that open nothing, made after one that does."""
    for value in (
        "", "guessed", token[:-1], token + "x", token.swapcase(), token[::-1], "null", "owner", "../sessions",
        "a" * 8000, token[: len(token) // 2],
    ):  # fmt: skip
        yield f"{COOKIE}={value}"
    yield f"{COOKIE.upper()}={token}"
    yield f'x{COOKIE}={token}; {COOKIE}="guessed"'
    yield f"{COOKIE}={token}; {COOKIE}=guessed"  # the last one counts
    yield f"access-token={token}; access-token-unsecure={token}"
