"""How far llama.cpp is with a file: it tells nothing itself, so the file is looked at while it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.5


@contextmanager
def watched(path: Path, before: int, total: int, recorder) -> Iterator[None]:
    """Tell how many bytes are written, from a thread of its own: who calls llama.cpp waits for it.

    Args:
        before: bytes of the files that were made already.
        total: of all files, as far as can be said before they are made.
    """
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_S):
            size = path.stat().st_size if path.exists() else 0
            recorder.phase("quantizing", min(before + size, total - 1), total, "bytes")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
