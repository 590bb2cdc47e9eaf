"""Stands before every route of the page: lets nobody in who has not signed in, and viewers no further than they may go.

It is ASGI middleware, so nothing of gradio is reached before it: no page, no event, no file, no upload.
"""

from __future__ import annotations

import hmac
import html
import json
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from engine.catalog.accounts import OWNER, Account, signed_in
from engine.words import words
from webui.access.attempts import Attempts
from webui.access.sessions import LASTS_S, Sessions
from webui.visit import language_of

COOKIE, KNOWN = "lathe-session", "lathe-known"
KNOWN_S = 365 * 24 * 3600
ROLE, NAME = b"x-lathe-role", b"x-lathe-name"
"""Headers that only the door writes; what a client sends under these names is taken away."""
STARTS = "/gradio_api/startup-events"
"""Gradio asks its own server for it when it starts, and nothing follows from it."""
EVENTS = ("/gradio_api/run/predict", "/gradio_api/queue/join")
"""Where the page's browser part sets events off, each with its number as ``fn_index``."""
READ = re.compile(
    r"/(gradio_api/)?(config|info|theme\.css|app_id|user|token|heartbeat/[^/]+|queue/data|startup-events)?/?"
    r"|/(assets|static|svelte)/.*|/(favicon\.ico|manifest\.json|robots\.txt|pwa_icon.*)"
    r"|/gradio_api/file=(?!https?:).*",
    re.IGNORECASE | re.DOTALL,
)
"""What a viewer's browser asks for. Gradio's other GET routes write files, ask other hosts, or show how it is used."""
LONGEST_FORM, LONGEST_EVENT = 10_000, 10_000_000
"""Bytes."""
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Door:
    """ASGI middleware.

    Args:
        for_viewers: numbers of the events that viewers may set off.
        language: where a browser names none.
        is_over: whether the page has stopped being shared, so that only this machine is answered.
    """

    def __init__(
        self, app: Any, accounts: Mapping[str, Account], sessions: Sessions, for_viewers: Collection[int],
        language: str = "en", attempts: Attempts | None = None, is_over: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._app, self._accounts, self._sessions = app, accounts, sessions
        self._for_viewers, self._language = for_viewers, language
        self._attempts, self._is_over = attempts or Attempts(), is_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), request.method
        token = cookie_of(request, COOKIE)
        account = self._sessions.account(token)
        is_here = request.client is not None and request.client.host in ("127.0.0.1", "::1")
        if self._is_over() and not is_here:
            await self._word(request, "over", 403)(scope, receive, send)
        elif path == STARTS and method == "GET" and is_here:
            await self._app(scope, receive, send)
        elif path == "/login" and method == "POST":
            await (await self._sign_in(request))(scope, receive, send)
        elif path == "/logout" and method == "POST":
            if account:
                self._sessions.end(token or "")
            response = RedirectResponse(".", 303)
            response.delete_cookie(COOKIE)
            await response(scope, receive, send)
        elif account is None:
            await self._refusal(request)(scope, receive, send)
        elif account.role == OWNER:
            await self._app(_told(scope, account), receive, send)
        else:
            await self._let_view(request, path, account, send)

    async def _sign_in(self, request: Request) -> Response:
        form = parse_qs((await _body(request, LONGEST_FORM) or b"").decode("utf-8", "replace"))
        name, password = (form.get(field, [""])[0] for field in ("name", "password"))
        account = self._accounts.get(name)
        is_known = account is not None and hmac.compare_digest(
            (cookie_of(request, KNOWN) or "").encode(), _mark(account).encode()
        )
        who = f"{KNOWN} {name}" if is_known else request.client.host if request.client else ""
        wait_s = self._attempts.wait_s(who, is_known)
        if wait_s:
            response = self._page(request, "wait", 429, seconds=math.ceil(wait_s))
            response.headers["retry-after"] = str(math.ceil(wait_s))
            return response
        self._attempts.failed(who, is_known)  # before it is looked at, so that many at once are no way around
        account = await run_in_threadpool(signed_in, self._accounts, name, password)
        if account is None:
            return self._page(request, "wrong", 401)
        self._attempts.succeeded(who, is_known)
        token = await run_in_threadpool(self._sessions.begin, account)
        response = RedirectResponse(".", 303)
        is_secure = "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))
        for cookie, value, lasts_s in ((COOKIE, token, LASTS_S), (KNOWN, _mark(account), KNOWN_S)):
            response.set_cookie(cookie, value, max_age=lasts_s, httponly=True, samesite="lax", secure=is_secure)
        return response

    async def _let_view(self, request: Request, path: str, account: Account, send: Send) -> None:
        """The page may be read; of what changes something, only the events on the list."""
        scope = _told(request.scope, account)
        if request.method in ("GET", "HEAD") and READ.fullmatch(path):
            await self._app(scope, request.receive, send)
            return
        is_event = request.method == "POST" and path in EVENTS
        event = _event(await _body(request, LONGEST_EVENT)) if is_event else None
        if event is None or event[0] not in self._for_viewers:
            await self._word(request, "owners_only", 403)(request.scope, request.receive, send)
            return
        text = event[1]
        headers = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
        scope["headers"] = [*headers, (b"content-length", str(len(text)).encode())]
        is_told = False

        async def again() -> dict[str, Any]:
            nonlocal is_told
            if is_told:
                return await request.receive()
            is_told = True
            return {"type": "http.request", "body": text, "more_body": False}

        await self._app(scope, again, send)

    def _refusal(self, request: Request) -> Response:
        """To who has not signed in: the form, where a person asks for the page, else a word."""
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return self._page(request, None, 401)
        return self._word(request, "sign_in_first", 401)

    def _word(self, request: Request, name: str, status: int) -> Response:
        return refusal(request, name, status, self._language)

    def _page(self, request: Request, said: str | None, status: int, **facts: Any) -> HTMLResponse:
        language = language_of(request, self._language)

        def word(name: str, **facts: Any) -> str:
            return html.escape(words(f"access.{name}", language, **facts))

        note = f'<p role="alert">{word(said, **facts)}</p>' if said else ""
        text = PAGE.format(
            language=language, title=word("title"), note=note, name=word("name"), password=word("password"),
            enter=word("enter"),
        )  # fmt: skip
        headers = {"cache-control": "no-store", "content-security-policy": CSP, "x-frame-options": "DENY"}
        return HTMLResponse(text, status, headers)


def refusal(request: Request, name: str, status: int, default: str, **facts: Any) -> JSONResponse:
    """A refusal as gradio's browser part shows it. Args: default: the language where the visit names none."""
    return JSONResponse({"error": words(f"access.{name}", language_of(request, default), **facts)}, status)


def role_of(request: Any) -> str:
    """The role of who asks, of a ``gr.Request``; where there is no door, everybody is an owner."""
    return request.headers.get(ROLE.decode()) or OWNER


def name_of_visitor(request: Any) -> str:
    """The name under which who asks has signed in."""
    return unquote(request.headers.get(NAME.decode()) or "")


def cookie_of(request: Request, name: str) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None


def _mark(account: Account) -> str:
    """What a browser keeps in which this account has signed in: it opens nothing, and ends with the password."""
    return hmac.new(account.seal.encode(), b"a browser that is known", "sha256").hexdigest()


def _told(scope: Scope, account: Account) -> Scope:
    """The scope for gradio, with who asks among the headers."""
    headers = [(key, value) for key, value in scope["headers"] if key.lower() not in (ROLE, NAME)]
    about = [(ROLE, account.role.encode()), (NAME, quote(account.name).encode())]
    return {**scope, "headers": [*headers, *about]}


async def _body(request: Request, most: int) -> bytes | None:
    """A request's body; None: it is longer than ``most`` bytes."""
    parts = b""
    async for part in request.stream():
        parts += part
        if len(parts) > most:
            return None
    return parts


def _event(body: bytes | None) -> tuple[int, bytes] | None:
    """The number of the event that a body sets off, and the body as it was understood: what was looked at is handed on,
    whatever another reader would make of what came."""
    try:
        found = json.loads(body or b"")
        written = json.dumps(found).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("fn_index")) is not int:
        return None
    return found["fn_index"], written


CSP = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
PAGE = """<!doctype html>
<html lang="{language}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Lathe</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ margin: 0; background: light-dark(#f8fafc, #0d1420); color: light-dark(#0f172a, #e8eef7); min-height: 100vh; display: grid; place-items: center; }}
form {{ width: min(320px, 86vw); display: grid; gap: 14px; }}
h1 {{ margin: 0; font-size: 25px; color: light-dark(#0f766e, #2dd4bf); }}
p {{ margin: 0; }} p[role=alert] {{ color: light-dark(#b91c1c, #fca5a5); }}
label {{ display: grid; gap: 4px; font-size: 14px; font-weight: 600; }}
input {{ font: inherit; padding: 9px 11px; border: 1px solid light-dark(#7f8ca1, #64748b); border-radius: 8px; background: transparent; color: inherit; }}
button {{ font: inherit; font-weight: 650; padding: 10px; border: 0; border-radius: 8px; background: #0f766e; color: #fff; cursor: pointer; }}
</style></head>
<body><form method="post" action="login">
<h1>Lathe</h1><p>{title}</p>{note}
<label>{name}<input name="name" autocomplete="username" required autofocus></label>
<label>{password}<input name="password" type="password" autocomplete="current-password" required></label>
<button>{enter}</button>
</form></body></html>
"""  # noqa: E501
