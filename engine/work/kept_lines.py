"""Results line by line, in an order that is known beforehand, so that one who was killed goes on where he was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.runs.record import append_line, write_text


class KeptLines:
    """One JSON object a line, each with its "index": the place of its row among the rows that are measured.

    Lines are written batch by batch, since the rows of a batch depend on each other in their last bits: what a batch
    has left half-written is taken back. At the end they stand in the order of the rows.
    """

    def __init__(self, path: Path, batches: Sequence[Sequence[int]]) -> None:
        self._path, self._batches = path, batches
        self.lines = self._read()

    @property
    def open_batches(self) -> list[Sequence[int]]:
        """Those of which nothing is kept."""
        have = {line["index"] for line in self.lines}
        return [batch for batch in self._batches if not have.issuperset(batch)]

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append the lines of one batch."""
        for line in lines:
            append_line(self._path, line)
        self.lines += lines

    def finish(self, lines: Sequence[dict[str, Any]]) -> None:
        """Put these in the place of all, in the order of their rows."""
        self.lines = sorted(lines, key=lambda line: line["index"])
        write_text(self._path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines))

    def _read(self) -> list[dict[str, Any]]:
        """The lines of whole batches; others are removed from the file."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        found: dict[int, dict[str, Any]] = {}
        for written in text.split("\n"):
            try:
                line = json.loads(written)
                found[line["index"]] = line
            except (ValueError, KeyError, TypeError):
                continue  # torn, or the empty end
        whole = [found[index] for batch in self._batches if found.keys() >= set(batch) for index in batch]
        write_text(self._path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in whole))
        return whole
