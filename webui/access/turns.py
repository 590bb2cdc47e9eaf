"""How many answers of models are given at once: each holds a thread of the page, and there are 40 for everybody."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import UserError
from webui.access.door import COOKIE


class Turns:
    """Args: most: for all visitors together; most_each: for one of them."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, request: Any) -> Iterator[None]:
        """Hold one while an answer is given. Args: request: a ``gr.Request``.

        Raises:
            UserError: all are taken, or this visitor has enough of them.
        """
        who = request.cookies.get(COOKIE) or str(request.session_hash)
        with self._lock:
            if self._taken.total() >= self._most or self._taken[who] >= self._most_each:
                raise UserError("access.too_many_chats")
            self._taken[who] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[who] -= 1
                self._taken += Counter()  # whoever has none is forgotten


ANSWERS = Turns(most=12, most_each=4)
