"""What every answer of the page tells the browser: fetch nothing from elsewhere, and let no other site act through it.

It stands before the door, and on a page without one too. What a model, a dataset or a log says is shown, so it might
ask the browser for a picture of another host, which would learn of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from engine.runs.api import is_loopback
from engine.words import words
from webui.visit import language_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# Gradio 6.31 writes its settings into the page as a script, and makes functions of the texts of js= and of its charts.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; frame-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}  # fmt: skip


class Seal:
    """ASGI middleware.

    Args:
        has_door: whether visitors sign in. Where nobody does, the page answers only under the names of this machine: a
            site that lets its own name point here would be taken for the page itself.
        language: where a browser names none.
    """

    def __init__(self, app: Any, has_door: bool, language: str) -> None:
        self._app, self._has_door, self._language = app, has_door, language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _is_asked_by_another_site(scope):
            await PlainTextResponse("", 403)(scope, receive, send)
            return
        if not self._has_door and not _is_asked_for_here(scope):
            said = words("access.other_name", language_of(Request(scope), self._language))
            await PlainTextResponse(said, 403)(scope, receive, send)
            return

        async def sealed(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sealed)


def _is_asked_for_here(scope: Scope) -> bool:
    """Whether the name in the address bar is one of this machine's own; a browser always says it."""
    name = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "localhost").strip().lower()).rstrip(".")
    return is_loopback(name) or name.endswith(".localhost")


def _is_asked_by_another_site(scope: Scope) -> bool:
    """Whether a page from elsewhere sends this through a visitor's browser, which may add his cookie: gradio 6.31 lets
    every origin read its answers. A link to the page is no such thing.
    """
    headers = Headers(scope=scope)
    if (site := headers.get("sec-fetch-site")) is not None:
        is_foreign = site not in ("same-origin", "none")
    else:  # an older browser, or one that has come over plain http
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return is_foreign and not is_link
