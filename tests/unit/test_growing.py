"""A file that grows while somebody waits for it is told of, in bytes of all that will be written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from engine.work.gguf import growing


class _Listener:
    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.has_heard = threading.Event()

    def phase(self, *facts: object) -> None:
        self.told.append(facts)
        self.has_heard.set()


def test_a_growing_file_is_told_of_until_it_is_done(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(growing, "LOOK_S", 0.01)
    listener, path = _Listener(), tmp_path / "model.gguf"
    with growing.watched(path, 100, 1000, listener):
        assert listener.has_heard.wait(10)
        assert listener.told[0] == ("quantizing", 100, 1000, "bytes")  # not begun yet
        path.write_bytes(b"x" * 50)
        while listener.told[-1][1] != 150:
            listener.has_heard.clear()
            assert listener.has_heard.wait(10)
        path.write_bytes(b"x" * 5000)  # larger than was expected: still not all
        while listener.told[-1][1] != 999:
            listener.has_heard.clear()
            assert listener.has_heard.wait(10)
    count = len(listener.told)
    time.sleep(0.05)
    assert len(listener.told) == count
