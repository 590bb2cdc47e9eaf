"""How long must be waited after wrong passwords: longer with each, for the address they came from and for all together.

Through a tunnel all visitors have one address, and an attacker may have many: so all wrong passwords together are
slowed down too, but never so far that the owner could be kept out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

EVERYBODY = ""


@dataclass(frozen=True)
class Limit:
    """Args: free: wrong passwords without a wait; most_s: the longest wait."""

    free: int
    most_s: float


LIMITS = {False: Limit(5, 900.0), True: Limit(20, 10.0)}
"""Of one address, and (True) of everybody."""
FORGOTTEN_S = 3600.0
MOST_ADDRESSES = 10_000


class Attempts:
    """Counts wrong passwords. Args: clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}  # by address: how many, and when the last
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0: now."""
        with self._lock:
            return max(self._wait_s(key) for key in (address, EVERYBODY))

    def failed(self, address: str) -> None:
        with self._lock:
            now = self._clock()
            for key in (address, EVERYBODY):
                count, at = self._failed.get(key, (0, now))
                self._failed[key] = (1 if now - at > FORGOTTEN_S else count + 1, now)
            while len(self._failed) > MOST_ADDRESSES:
                del self._failed[min(self._failed, key=lambda key: self._failed[key][1])]

    def succeeded(self, address: str) -> None:
        """Forget what this address did wrong; what others did stays."""
        with self._lock:
            self._failed.pop(address, None)

    def _wait_s(self, key: str) -> float:
        count, at = self._failed.get(key, (0, 0.0))
        limit = LIMITS[key == EVERYBODY]
        if count < limit.free:
            return 0.0
        return max(0.0, at + min(2.0 ** min(count - limit.free, 20), limit.most_s) - self._clock())
