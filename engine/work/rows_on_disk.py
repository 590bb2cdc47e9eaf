"""Encoded rows in Arrow files, one for each dataset, named by their key; training maps them into memory.

So memory does not grow with the number of rows. It does not know how rows are encoded, nor in which order they are
learned.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow
from datasets import Dataset
from filelock import FileLock, Timeout

from engine.errors import UserError
from engine.runs.record import Recorder, write_text
from engine.work.chunks import SCHEMA, Chunk, Counts

OURS = re.compile(r"[0-9a-f]{64}\.(arrow|json)(\.\d+\.tmp)?|\..*")
WAIT_S = 0.2
BATCH_ROWS = 4096


class Stored(NamedTuple):
    rows: Dataset
    counts: Counts


@dataclass(frozen=True)
class Shelf:
    """A folder of encoded rows: each dataset's as ``<key>.arrow``, and ``<key>.json`` once they are complete."""

    folder: Path

    @contextmanager
    def taken(self, recorder: Recorder) -> Iterator[None]:
        """Make the folder and keep others from writing to it; what they left half-written is removed.

        Raises:
            UserError: there is something else in the folder; it is left as it is.
            StopRequested: somebody asked the run to stop while another one was writing.
        """
        self.check_ours()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        while True:
            try:
                lock.acquire(timeout=WAIT_S)
                break
            except Timeout:
                recorder.check_stop()
        try:
            for path in self.folder.glob("*.tmp"):
                path.unlink()
            yield
        finally:
            lock.release()

    def check_ours(self) -> None:
        if self.folder.is_dir():
            foreign = sorted(path.name for path in self.folder.iterdir() if not OURS.fullmatch(path.name))
            if foreign:
                raise UserError("tokenized_path_foreign", path=self.folder, found=", ".join(foreign[:3]))
        elif self.folder.exists():
            raise UserError("tokenized_path_foreign", path=self.folder, found=self.folder.name)

    def find(self, key: str) -> Stored | None:
        """The rows of this key, if they are here and complete."""
        note = self._note(key)
        if not (note.is_file() and self._rows(key).is_file()):
            return None
        counts = json.loads(note.read_text(encoding="utf-8"))["counts"]
        return Stored(Dataset.from_file(str(self._rows(key))), Counts(**counts))

    def put(self, key: str, name: str, chunks: Iterable[Chunk]) -> Stored:
        """Write the rows of a dataset as they come; they have their name only when all of them are there.

        Rows of the same dataset under another key are out of date by now and make room.
        """
        counts = Counts()
        unfinished = self.folder / f"{key}.arrow.{os.getpid()}.tmp"
        try:
            with pyarrow.OSFile(str(unfinished), "wb") as file, pyarrow.ipc.new_stream(file, SCHEMA) as writer:
                for batch in _large(_counted(chunks, counts)):
                    writer.write_batch(batch)
            os.replace(unfinished, self._rows(key))
        finally:
            unfinished.unlink(missing_ok=True)
        write_text(self._note(key), json.dumps({"dataset": name, "counts": vars(counts)}, ensure_ascii=False))
        self._forget_others(key, name)
        return Stored(Dataset.from_file(str(self._rows(key))), counts)

    def _forget_others(self, key: str, name: str) -> None:
        for note in self.folder.glob("*.json"):
            if note.stem != key and json.loads(note.read_text(encoding="utf-8"))["dataset"] == name:
                note.unlink()
                self._rows(note.stem).unlink(missing_ok=True)

    def _rows(self, key: str) -> Path:
        return self.folder / f"{key}.arrow"

    def _note(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _counted(chunks: Iterable[Chunk], counts: Counts) -> Iterator[pyarrow.RecordBatch]:
    for chunk in chunks:
        counts.add(chunk.counts)
        yield chunk.batch


def _large(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """The same rows in batches of at least ``BATCH_ROWS``: whoever opens a file reads the head of each batch in it."""
    waiting: list[pyarrow.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= BATCH_ROWS:
            yield from pyarrow.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting = []
    if waiting:
        yield from pyarrow.Table.from_batches(waiting).combine_chunks().to_batches()
