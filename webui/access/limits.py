"""How much one visitor may ask for, so that whoever asks for too much stops only himself; and who was here lately.

A visitor is a session, and whoever has none is an address.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from webui.access.door import COOKIE, Receive, Scope, Send, cookie_of, refusal
from webui.access.sessions import Sessions

RATE, BURST = 40.0, 400.0
"""Requests a second, and at once: a page asks for some 150 files when it is opened, then for one or two a second."""
AT_ONCE, WAITING = 12, 100
"""Requests of one visitor that are worked on, and that wait for these. What is listened to for its news is not one."""
LISTENING = 40
LONGEST_BODY = 10_000_000
"""Bytes, of whatever is no upload."""
BODY_S = 30.0
"""For each part of a body to come."""
LATELY_S = 20.0
"""A page that is open asks every few seconds."""
FORGOTTEN_S = 900.0
MOST = 10_000
STREAM, UPLOADS = "/gradio_api/queue/data", "/gradio_api/upload"


@dataclass
class Visitor:
    """Args: left: requests that may be sent at once; at: when that was so, and so when it was here last."""

    name: str
    role: str
    left: float = field(default_factory=lambda: BURST)
    at: float = 0.0
    working: int = 0
    listening: int = 0
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


class Limits:
    """Who is here, and what each has asked for. Args: clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._visitors: dict[str, Visitor] = {}

    def connected(self) -> list[tuple[str, str, int]]:
        """Name, role, and in how many browsers: of all who have signed in and were here lately."""
        now = self._clock()
        lately = [(each.name, each.role) for each in list(self._visitors.values()) if now - each.at < LATELY_S]
        return [(*who, lately.count(who)) for who in sorted(set(lately)) if who[0]]

    def asked(self, key: str, name: str, role: str) -> tuple[Visitor, float]:
        """The visitor, and how many seconds he has to wait before he may ask anything; 0: he may, and has."""
        now = self._clock()
        found = self._visitors.get(key)
        if found is None:
            self._forget(now)
            found = self._visitors[key] = Visitor(name, role, at=now)
        found.left = min(BURST, found.left + (now - found.at) * RATE)
        found.at = now
        if found.left < 1:
            return found, (1 - found.left) / RATE
        found.left -= 1
        return found, 0.0

    def _forget(self, now: float) -> None:
        if len(self._visitors) < MOST:
            return
        for key, each in list(self._visitors.items()):
            if now - each.at > FORGOTTEN_S or (not each.name and not each.working and not each.listening):
                del self._visitors[key]


class Limited:
    """ASGI middleware before the door.

    Args:
        limits: who was here, and with how much; the page's banner reads it too.
        sessions: whose a request is.
        language: where a browser names none.
    """

    def __init__(self, app: Any, limits: Limits, sessions: Sessions, language: str) -> None:
        self._app, self._limits, self._sessions, self._language = app, limits, sessions, language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        token = cookie_of(request, COOKIE)
        account = self._sessions.account(token)
        if account is None:
            key, name, role = f"from {request.client.host if request.client else ''}", "", ""
        else:
            key, name, role = token or "", account.name, account.role
        visitor, wait_s = self._limits.asked(key, name, role)
        if account is None:  # nobody in particular: what never ends must keep none of the others from signing in
            if wait_s:
                await self._refused(request, wait_s)(scope, receive, send)
            else:
                await self._measured(scope, receive, send)
            return
        is_stream = scope["path"].endswith(STREAM)
        is_full = visitor.listening >= LISTENING if is_stream else visitor.working >= AT_ONCE + WAITING
        if wait_s or is_full:
            await self._refused(request, wait_s)(scope, receive, send)
        elif is_stream:
            visitor.listening += 1
            try:
                await self._app(scope, receive, send)
            finally:
                visitor.listening -= 1
        else:
            visitor.working += 1
            try:
                async with visitor.turn:
                    await self._measured(scope, receive, send)
            finally:
                visitor.working -= 1

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One that is answered, unless it says more than there is to be said. Gradio measures uploads itself."""
        if scope["path"].endswith(UPLOADS):
            await self._app(scope, receive, send)
            return
        got, is_whole, is_begun = 0, False, False

        async def counted() -> dict[str, Any]:
            nonlocal got, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_S)
            except asyncio.TimeoutError:
                return {"type": "http.disconnect"}
            got += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return {"type": "http.disconnect"} if got > LONGEST_BODY else message

        async def told(message: dict[str, Any]) -> None:
            nonlocal is_begun
            if got <= LONGEST_BODY or is_begun:
                is_begun = True
                await send(message)

        try:
            await self._app(scope, counted, told)
        except Exception:
            if got <= LONGEST_BODY:
                raise
        if got > LONGEST_BODY and not is_begun:
            await refusal(Request(scope), "too_long", 413, self._language)(scope, receive, send)

    def _refused(self, request: Request, wait_s: float) -> JSONResponse:
        seconds = max(1, math.ceil(wait_s))
        answer = refusal(request, "too_much", 429, self._language, seconds=seconds)
        answer.headers["retry-after"] = str(seconds)
        return answer
