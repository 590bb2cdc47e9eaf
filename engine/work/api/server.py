"""The web server: who may come in, which path leads where, and answers on their way out. It never touches the model."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.runs.api import is_loopback
from engine.work.api.answering import Delta, Ended, Event
from engine.work.api.asked import Asked, read_chat, read_completion
from engine.work.api.errors import ApiError, error_body
from engine.work.api.line import RETRY_AFTER_S, Ask, Line
from engine.work.api.shapes import Shape, model_card, server_sent

LARGEST_BODY_BYTES = 16 * 2**20
OPEN = ("/health",)
"""Paths that need no key and tell nothing but that the server is there."""


def application(line: Line, name: str, key: str | None, language: str = "en") -> ASGIApp:
    """The server as an ASGI application.

    Args:
        line: where requests wait for the model.
        name: of the model.
        key: what who asks must show; None: nothing, but then only this machine's own programs are let in.
        language: of what is said when something is wrong.
    """
    rooms = _Rooms(line, name, language)
    routes = [
        Route("/health", rooms.health),
        Route("/v1/models", rooms.models),
        Route("/v1/models/{name:path}", rooms.model),
        Route("/v1/chat/completions", rooms.answers(read_chat), methods=["POST"]),
        Route("/v1/completions", rooms.answers(read_completion), methods=["POST"]),
        Route("/v1/embeddings", rooms.embeddings, methods=["POST"]),
    ]

    def refuse(request: Request, error: Exception) -> Response:
        return _refusal(_as_told(request, error), language)

    handlers = {ApiError: refuse, HTTPException: refuse, Exception: refuse}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), key, language)


class Guard:
    """Lets nobody in who does not know the key.

    Without a key the server is for this machine's own programs. A page in a browser is none of them: one that some
    other name leads here (DNS rebinding) calls this machine by that name, which is how it is found out.
    """

    def __init__(self, inner: ASGIApp, key: str | None, language: str) -> None:
        self._inner, self._language = inner, language
        self._key = key.encode("utf-8") if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(Request(scope)) if scope["type"] == "http" else None
        await (_refusal(problem, self._language) if problem else self._inner)(scope, receive, send)

    def _problem(self, request: Request) -> ApiError | None:
        if request.scope["path"] in OPEN:
            return None
        if self._key is None:
            host = _host_in(request.headers.get("host", ""))
            return None if is_loopback(host) else ApiError("api.host", status=403, host=host)
        word, _, shown = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode("latin-1"), self._key)  # its bytes as sent
        if word.lower() == "bearer" and is_right:
            return None
        return ApiError("api.wrong_key", status=401, code="invalid_api_key")


def _host_in(header: str) -> str:
    """By which name a request calls this machine, without the port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header  # no name at all


class _Rooms:
    """What stands behind each path."""

    def __init__(self, line: Line, name: str, language: str) -> None:
        self._line, self._name, self._language = line, name, language
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_card(self._name, self._created)]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(model_card(self._name, self._created))

    async def embeddings(self, request: Request) -> Response:
        raise ApiError("api.embeddings", status=400)

    def answers(self, read: Callable[[Any], Asked]) -> Callable[[Request], Awaitable[Response]]:
        """The door of one kind of request."""

        async def attend(request: Request) -> Response:
            asked = read(await _body(request))
            self._check_name(asked.model)
            ask = self._line.join(asked)
            return await self._answer(request, ask)

        return attend

    async def _answer(self, request: Request, ask: Ask) -> Response:
        """Nothing is sent before it is certain that there is an answer, so a refusal has its own status."""
        shape, events = Shape(ask.asked, self._name), _events(request, ask)
        streams = False
        try:
            await anext(events)  # Begun
            if ask.asked.streams:
                streams = True
                return _Stream(_written(events, shape, self._language), lambda: self._line.leave(ask))
            deltas: list[Delta] = []
            async for event in events:
                if isinstance(event, Delta):
                    deltas.append(event)
                elif isinstance(event, Ended):
                    return JSONResponse(shape.whole(deltas, event))
            raise ClientGone
        except (ClientGone, StopAsyncIteration):
            return Response(status_code=499)  # nobody reads it
        finally:
            if not streams:
                self._line.leave(ask)

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise ApiError("api.model", status=404, param="model", code="model_not_found", model=name, name=self._name)


class ClientGone(Exception):
    """Who asked has closed the connection."""


class _Stream(StreamingResponse):
    """Server-sent events; when they end, however they do, the place in the line is free."""

    def __init__(self, content: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _written(events: AsyncIterator[Event], shape: Shape, language: str) -> AsyncIterator[str]:
    try:
        async for event in events:
            if isinstance(event, Delta):
                for chunk in shape.chunks(event):
                    yield server_sent(chunk)
            elif isinstance(event, Ended):
                last = shape.last_chunk(event)
                if last:
                    yield server_sent(last)
                yield "data: [DONE]\n\n"
                return
    except ApiError as error:
        yield server_sent(error_body(error, language))  # the status is sent long ago
    except ClientGone:
        return


async def _events(request: Request, ask: Ask) -> AsyncIterator[Event]:
    """What is said in answer. Raises: ApiError, if it failed; ClientGone."""
    leaving = asyncio.ensure_future(_gone(request))
    try:
        while True:
            coming = asyncio.ensure_future(ask.events.get())
            await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                raise ClientGone
            event = coming.result()
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Ended):
                return
    finally:
        leaving.cancel()


async def _gone(request: Request) -> None:
    """Return once the other end has closed the connection: nothing else is ever said after the body."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> Any:
    """JSON, and said to be JSON: so no page in a browser can send it without asking first, which is not granted."""
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise ApiError("api.no_json_type", status=415)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY_BYTES:
            raise ApiError("api.too_large", status=413, limit=LARGEST_BODY_BYTES // 2**20)
        parts.append(part)
    body = b"".join(parts)
    try:
        content = json.loads(body)
        if b"\\u" in body:  # the only way to write half a character, which no tokenizer reads
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        return content
    except (ValueError, RecursionError) as error:
        raise ApiError("api.no_json", detail=error) from error


def _as_told(request: Request, error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError("api.no_such_path", status=error.status_code, method=request.method, path=request.scope["path"])
    return ApiError("api.failed", status=500, detail=f"{type(error).__name__}: {error}")


def _refusal(error: ApiError, language: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 429 else None
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(error_body(error, language), status_code=error.status, headers=headers)
