"""In which language a visit is served: chosen before (a cookie), else asked for by the browser, else the default."""

from __future__ import annotations

import json
from contextvars import ContextVar
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from engine.words import LANGUAGES, all_words, nearest_language, words

COOKIE = "lathe-language"
KEEP = f"""(tab, language) => {{
    document.cookie = `{COOKIE}=${{language}}; max-age=31536000; samesite=lax`;
    new MutationObserver((_, once) => {{
        once.disconnect();
        document.documentElement.dataset.language = language;
    }}).observe(document.querySelector('.brand-block'), {{childList: true, characterData: true, subtree: true}});
    return [tab, language];
}}"""
"""What the browser does when a person has chosen a language. The page is in it with the first words that arrive: set
sooner, all text would be laid out once more."""

served: ContextVar[str | None] = ContextVar("served", default=None)
"""The language of the page that is being answered; None: no page is."""

SCRIPT = Path(__file__).with_name("gradio_words.js")
MARK = b"<head>"


def language_of(request: Any, default: str) -> str:
    """Args: request: one of starlette or of gradio."""
    try:
        chosen = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        chosen = None
    if chosen and chosen.value in LANGUAGES:
        return chosen.value
    return nearest_language(request.headers.get("accept-language"), default)


class InItsLanguage:
    """ASGI middleware: gradio writes the page in the visit's language, and the page says so from its first byte."""

    def __init__(self, app: Any, default: str) -> None:
        self._app, self._default = app, default

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", "")).rstrip("/")
        if scope["type"] != "http" or scope["method"] != "GET" or path not in ("", "/config"):
            await self._app(scope, receive, send)
            return
        language = language_of(Request(scope), self._default)
        held: dict[str, Any] = {}

        async def in_language(message: dict[str, Any]) -> None:
            """The start waits for the first of the body, which holds the head: the length changes."""
            if message["type"] == "http.response.start":
                held.update(message)
                return
            if held:
                headers = MutableHeaders(raw=held["headers"])
                headers.add_vary_header("Accept-Language, Cookie")
                if MARK in message["body"] and "html" in headers.get("content-type", ""):
                    body = _speaking(message["body"], language)
                    headers["content-length"] = str(int(headers["content-length"]) + len(body) - len(message["body"]))
                    message = {**message, "body": body}
                await send(dict(held))
                held.clear()
            await send(message)

        token = served.set(language)
        try:
            await self._app(scope, receive, in_language)
        finally:
            served.reset(token)


def _speaking(body: bytes, language: str) -> bytes:
    script = f"<head><script>document.documentElement.dataset.language = '{language}';\n{_script()}</script>"
    return body.replace(MARK, script.encode(), 1)


@lru_cache(maxsize=1)
def _script() -> str:
    names = [key.removeprefix("gradio.") for key in all_words("en") if key.startswith("gradio.")]
    phrases = [{each: words(f"gradio.{name}", each) for each in LANGUAGES} for name in names]
    table = json.dumps(phrases, ensure_ascii=False)
    return SCRIPT.read_text(encoding="utf-8").replace("/* TABLE */ []", table)
