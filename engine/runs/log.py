"""A run's log: a part of it, and where a text stands in it. Of a long one never the whole is in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from pathlib import Path
from typing import NamedTuple

from engine.runs.folder import Folder

BLOCK_BYTES = 1 << 20
BLOCKS_A_LOOK = 16
"""So many blocks at most are searched at one look: 0.1 to 0.4 s."""
LONGEST_LINE = 1 << 20
"""A line is searched as far as this, in bytes."""
MOST_HITS = 500
BEFORE_HIT, AFTER_HIT = 100, 300
"""So many characters of a line are kept around what was sought."""
MOST_SEARCHES = 16
KNOWN_BYTES = 64


class Hit(NamedTuple):
    """A line with the text that was sought; ``line`` counts from 1, and a rewritten line is one line."""

    line: int
    text: str


class Found(NamedTuple):
    """What a search has found so far.

    ``hits`` are the last ``MOST_HITS`` of ``count`` lines; ``read_bytes`` of ``size_bytes`` have been searched.
    """

    hits: tuple[Hit, ...]
    count: int
    read_bytes: int
    size_bytes: int

    @property
    def is_whole(self) -> bool:
        return self.read_bytes >= self.size_bytes


class Part(NamedTuple):
    """Lines of a log from the byte ``begin`` to the byte ``end``."""

    text: str
    begin: int
    end: int


def read_part(folder: Folder, most_bytes: int, begin: int | None = None) -> Part:
    """Lines from a place on, or the last ones; of a line that was rewritten (a progress bar) the last form only."""
    try:
        with folder.log.open("rb") as file:
            size = file.seek(0, 2)
            if begin is None or begin > size:
                begin = max(0, size - most_bytes)
                file.seek(max(0, begin - 1))
                if begin and file.read(1) != b"\n":
                    begin += len(file.readline(most_bytes))
            file.seek(begin)
            data = file.read(most_bytes)
    except FileNotFoundError:
        return Part("", 0, 0)
    text = data.decode("utf-8", errors="replace")
    return Part("\n".join(map(_last_form, text.split("\n"))), begin, begin + len(data))


def search(folder: Folder, text: str) -> Found:
    """Lines that hold a text, upper and lower case alike. Each call reads on from where the last one came to.

    All who seek the same in the same log share one reading. A call takes a bounded time: ask again until ``is_whole``.
    """
    key = (str(folder.log.absolute()), text.casefold())
    with _searches_lock:
        if key not in _searches:
            _searches[key] = _Search(folder.log, key[1])
        _searches.move_to_end(key)
        while len(_searches) > MOST_SEARCHES:
            _searches.popitem(last=False)
        reader = _searches[key]
    return reader.look()


class _Search:
    """One text in one log, as far as it has been read."""

    def __init__(self, path: Path, folded: str) -> None:
        self._path, self._folded = path, folded
        self._lock = threading.Lock()
        self._start_over()

    def look(self) -> Found:
        with self._lock:
            try:
                return self._read_on()
            except FileNotFoundError:
                self._start_over()
                return Found((), 0, 0, 0)

    def _start_over(self) -> None:
        self._offset, self._lines, self._count = 0, 0, 0
        self._known = self._tail = b""
        self._hits: deque[Hit] = deque(maxlen=MOST_HITS)

    def _read_on(self) -> Found:
        with self._path.open("rb") as file:
            file.seek(max(0, self._offset - len(self._known)))
            if file.read(len(self._known)) != self._known:
                self._start_over()  # the file was written anew
            file.seek(self._offset)
            for _ in range(BLOCKS_A_LOOK):
                block = file.read(BLOCK_BYTES)
                if not block:
                    break
                self._take(block)
            size = max(self._offset, file.seek(0, 2))
        hits, count = list(self._hits), self._count
        if self._offset == size and (hit := self._hit(_decoded(self._tail), self._lines + 1)):
            hits, count = [*hits, hit][-MOST_HITS:], count + 1  # the last line, which may still grow
        return Found(tuple(hits), count, self._offset, size)

    def _take(self, block: bytes) -> None:
        self._offset += len(block)
        self._known = (self._known + block)[-KNOWN_BYTES:]
        data = self._tail + block
        end = data.rfind(b"\n") + 1
        whole, self._tail = data[:end], _shortened(data[end:])
        if self._folded in _decoded(whole).casefold():
            shortened = b"\n".join(map(_shortened, whole.split(b"\n")[:-1]))
            lines = [line.rstrip("\r") for line in _decoded(shortened).split("\n")]
            found = [place for place, line in enumerate(lines) if self._folded in line.casefold()]
            self._count += len(found)
            self._hits.extend(self._hit(lines[place], self._lines + 1 + place) for place in found[-MOST_HITS:])
        self._lines += whole.count(b"\n")

    def _hit(self, line: str, number: int) -> Hit | None:
        line = _last_form(line)
        place = line.casefold().find(self._folded)
        if place < 0:
            return None
        begin, end = max(0, place - BEFORE_HIT), place + len(self._folded) + AFTER_HIT
        return Hit(number, "…" * (begin > 0) + line[begin:end] + "…" * (end < len(line)))


_searches: OrderedDict[tuple[str, str], _Search] = OrderedDict()
_searches_lock = threading.Lock()


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _last_form(line: str) -> str:
    return line.rstrip("\r").rsplit("\r", 1)[-1]


def _shortened(line: bytes) -> bytes:
    """The last form of a line that may go on, no longer than is searched; a ``\\r`` at its end is kept."""
    body = line.rstrip(b"\r")
    body = body[body.rfind(b"\r") + 1 :]
    return body[:LONGEST_LINE] + (b"\r" if line.endswith(b"\r") else b"")
