"""How long must be waited after wrong passwords: longer with each, for who they came from and for all together.

An attacker may have many addresses: so all wrong passwords together are slowed down too, but never so far that the
owner could be kept out. Through a tunnel all visitors come from this machine: its own address is everybody's. A browser
in which somebody has signed in before is counted by itself, so that a flood from elsewhere does not concern it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

EVERYBODY = ""
OURS = ("", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limit:
    """Args: free: wrong passwords without a wait; most_s: the longest wait."""

    free: int
    most_s: float


LIMITS = {False: Limit(5, 900.0), True: Limit(20, 10.0)}
"""Of one address or browser, and (True) of everybody."""
FORGOTTEN_S = 3600.0
MOST_ADDRESSES = 10_000


class Attempts:
    """Counts wrong passwords. Args: clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}  # by address: how many, and when the last
        self._lock = threading.Lock()

    def wait_s(self, who: str, is_known: bool = False) -> float:
        """Seconds until it may be tried again; 0: now.

        Args:
            who: an address, or a browser.
            is_known: it is a browser in which somebody has signed in before, under the name that is tried.
        """
        with self._lock:
            return max(self._wait_s(key) for key in _keys(who, is_known))

    def failed(self, who: str, is_known: bool = False) -> None:
        with self._lock:
            now = self._clock()
            for key in _keys(who, is_known):
                count, at = self._failed.get(key, (0, now))
                self._failed[key] = (1 if now - at > FORGOTTEN_S else count + 1, now)
            while len(self._failed) > MOST_ADDRESSES:
                del self._failed[min(self._failed, key=lambda key: self._failed[key][1])]

    def succeeded(self, who: str, is_known: bool = False) -> None:
        """Take back what was counted before it was looked at, and what this one did wrong; what others did stays."""
        with self._lock:
            for key in _keys(who, is_known):
                count, at = self._failed.pop(key, (0, 0.0))
                if key == EVERYBODY and count > 1:
                    self._failed[key] = (count - 1, at)

    def _wait_s(self, key: str) -> float:
        count, at = self._failed.get(key, (0, 0.0))
        limit = LIMITS[key == EVERYBODY]
        if count < limit.free:
            return 0.0
        return max(0.0, at + min(2.0 ** min(count - limit.free, 20), limit.most_s) - self._clock())


def _keys(who: str, is_known: bool) -> set[str]:
    if is_known:
        return {who}
    return {EVERYBODY} if who in OURS else {who, EVERYBODY}
