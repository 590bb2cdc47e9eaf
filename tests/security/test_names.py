"""A page that asks for no password answers under the names of this machine alone.

Else a site could have its own name point to 127.0.0.1 once it is open in a browser, which would then let it read the
page as its own (DNS rebinding).
"""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from engine.words import LANGUAGES, words
from webui.access.seal import Seal

OWN = (
    "localhost", "localhost:7860", "127.0.0.1:7860", "127.0.0.1", "127.1.2.3:80", "[::1]:7860", "[::1]",
    "LOCALHOST:7860", "lathe.localhost:7860", "localhost.", "127.0.0.1:",
)  # fmt: skip
OTHERS = (
    "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example:7860", "10.0.0.7:7860",
    "evil-localhost", "0.0.0.0:7860", "[::]:7860", "127.0.0.1@evil.example", "evil.example#localhost", "2130706433",
    "localhost evil.example", "", "127.0.0.1.nip.io", "[fe80::1]:7860", "::1.evil.example", "localhost:7860:x",
)  # fmt: skip


def asked(host: str, has_door: bool, language: str = "en") -> httpx.Response:
    async def app(scope, receive, send):
        await PlainTextResponse("the page")(scope, receive, send)

    client = TestClient(Seal(app, has_door=has_door, language="en"))
    return client.get("/", headers={"host": host, "accept-language": language})


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine(host):
    assert asked(host, has_door=False).text == "the page"


@pytest.mark.parametrize("host", OTHERS)
def test_other_names(host):
    refused = asked(host, has_door=False)
    assert refused.status_code == 403 and "--auth-file" in refused.text
    assert asked(host, has_door=True).text == "the page", "who signs in there has a cookie of that name"


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_the_visitors_language(language):
    assert asked("evil.example", False, language).text == words("access.other_name", language)
