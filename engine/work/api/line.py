"""The line before the model: requests come in at one end, in the server's thread; the model's thread serves the other.

Who came first is served first. So many at once as there are seats take turns, token by token: a short question does
not wait until a long answer is over.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from typing import Any

from engine.errors import UserError
from engine.options.jobs import ApiJob
from engine.runs.record import Recorder
from engine.work.__main__ import explain
from engine.work.api.answering import Ended, Event, answer
from engine.work.api.asked import Asked
from engine.work.api.errors import ApiError, api_error
from engine.work.chat import for_chat

IDLE_S = 0.5
RETRY_AFTER_S = 2


class Ask:
    """A request that somebody waits for. Made and read in the server's thread; :meth:`tell` may be called in any."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.events: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        self.is_left = threading.Event()
        self.since = time.monotonic()
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event | ApiError) -> None:
        if not self.is_left.is_set():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class Line:
    """Args: longest: how many may be in it, those who are being answered included."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._open = 0  # changed in the server's thread alone

    def join(self, asked: Asked) -> Ask:
        """Raises: ApiError, if the line is full."""
        if self._open >= self._longest:
            raise ApiError("api.full", status=429, code="rate_limit_exceeded", count=self._open)
        self._open += 1
        ask = Ask(asked)
        self._asks.put(ask)
        return ask

    def leave(self, ask: Ask) -> None:
        """Nobody waits for it any more, whether it is answered or not."""
        if not ask.is_left.is_set():
            ask.is_left.set()
            self._open -= 1

    def next(self, timeout_s: float) -> Ask | None:
        """The next who still waits."""
        try:
            while True:
                ask = self._asks.get(block=timeout_s > 0, timeout=timeout_s or None)
                if not ask.is_left.is_set():
                    return ask
        except queue.Empty:
            return None


def serve(model: Any, line: Line, job: ApiJob, recorder: Recorder) -> None:
    """Answer until the worker is ended. Never returns of itself."""
    seats = job.api_at_once if model.holds_many else 1
    seated: deque[tuple[Ask, Iterator[Event | None]]] = deque()
    while True:
        recorder.check_stop()
        while len(seated) < seats and (ask := line.next(0 if seated else IDLE_S)):
            seated.append((ask, answer(model, ask.asked, job, ask.is_left.is_set)))
        if seated:
            ask, steps = seated.popleft()
            if _step(ask, steps, model):
                seated.append((ask, steps))


def _step(ask: Ask, steps: Iterator[Event | None], model: Any) -> bool:
    """Go one token on. Returns whether there is more; a failure is told to who asked, and hurts nobody else."""
    try:
        event = next(steps)
    except StopIteration:
        return False
    except UserError as error:
        ask.tell(api_error(error))
        return False
    except Exception as error:
        traceback.print_exc()
        found = explain(for_chat(error))
        ask.tell(ApiError(found["key"], status=500, **found["facts"]))
        model.recover()
        return False
    if isinstance(event, Ended):  # the log says how much, never what
        seconds = time.monotonic() - ask.since
        print(f"Answered: {event.prompt_tokens} + {event.completion_tokens} tokens, {seconds:.1f} s after it was asked")
    if event is not None:
        ask.tell(event)
    return True
