"""What is known of the Ollama server, for all viewers: asked now and then in a thread, so that no page waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from engine.catalog.ollama import OllamaServer, look
from engine.errors import UserError

AGE_S = 10.0
"""A server is asked again after so long, and only while somebody looks."""
TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Known:
    """The last that was seen: the server, or why there is none. Neither: it has not been asked yet."""

    server: OllamaServer | None = None
    error: UserError | None = None


_known = Known()
_asked_at = float("-inf")
_lock = threading.Lock()


def known() -> Known:
    """What was seen last; if that is long ago, somebody is sent to look again. Returns at once."""
    global _asked_at
    with _lock:
        if time.monotonic() - _asked_at > AGE_S:
            _asked_at = time.monotonic()
            threading.Thread(target=look_again, daemon=True).start()
        return _known


def look_again() -> Known:
    """Ask the server now; for an event after which it has changed."""
    global _known, _asked_at
    try:
        found = Known(server=look(TIMEOUT_S))
    except UserError as error:
        found = Known(error=error)
    with _lock:
        _known, _asked_at = found, time.monotonic()
    return found


def model_names() -> list[str]:
    server = known().server
    return [model.name for model in server.models] if server else []
