"""Minds the queue: a small process of its own that starts the next run when a device is free, and ends with the line.

Started by ``engine.runs.queue`` as ``python -m engine.runs.keeper``, with a lock as its standard input that it holds
for as long as it lives; so there is one for each ``saves``. It remembers nothing: killed at any moment, it loses
nothing.
"""

from __future__ import annotations

import signal
import sys
import time

from engine.runs.queue import advance, leave_if_empty

INTERVAL_S = 1.0


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not leave_if_empty():
        advance()
        time.sleep(INTERVAL_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
