"""Rows → chunks of encoded rows, in the order of the rows: in this process and, for many rows, in several more.

It loads neither torch nor datasets, so that a process that encodes is soon ready and small.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.catalog.conversations import Judged, Preference, to_example
from engine.catalog.entry import Entry
from engine.catalog.learned import AnyExample
from engine.catalog.rows import NumberedRow
from engine.catalog.stages import stage_problem
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.record import Recorder
from engine.words import has_words
from engine.work.beside import end_with_parent
from engine.work.chunks import Chunk, Counts, as_columns
from engine.work.encode import AnyEncoded, Encoded, EncodedOpinion, EncodedPair, Encoder

CHUNK_ROWS = 256
UNLIMITED = 2**62
SMALL_ROWS = 20_000
"""So many rows are encoded before more processes are started, which takes seconds."""
WAITING_CHUNKS = 3
"""For each process: enough that none waits for rows, few enough that memory does not grow with them."""


@dataclass(frozen=True)
class RowEncoder:
    """Encodes the rows of one dataset for one job."""

    job: TrainJob
    tokenizer: Any
    entry: Entry

    @cached_property
    def _encoder(self) -> Encoder:
        # In pre-training nothing of a long text is lost: it is encoded whole, and becomes several rows (``pieces``).
        job = self.job.model_copy(update={"cutoff_len": UNLIMITED}) if self.job.stage == "pt" else self.job
        return Encoder(job, self.tokenizer)

    def check(self) -> None:
        """Raises: UserError, if the stage does not learn from datasets of this kind."""
        problem = stage_problem(self.entry, self.job.stage)
        if problem:
            raise UserError(problem.key, **problem.facts)

    def encode(self, rows: list[NumberedRow]) -> list[AnyEncoded]:
        """What is learned of each row.

        Raises:
            UserError: the first row that does not fit, with its number.
        """
        examples = [to_example(row, self.entry, number) for number, row in rows]
        try:
            return [_row(*each) for each in zip(examples, self._encoder.encode(examples), strict=True)]
        except UserError as error:
            if not has_words(f"errors.dataset_row.{error.key}"):
                raise
        return [self._one(number, example) for (number, _), example in zip(rows, examples, strict=True)]

    def _one(self, number: int, example: AnyExample) -> AnyEncoded:
        try:
            return _row(example, self._encoder.encode([example])[0])
        except UserError as error:
            facts = {"dataset": self.entry.name, "row": number, **error.facts}
            raise UserError(f"dataset_row.{error.key}", **facts) from error

    def pieces(self, row: AnyEncoded) -> list[AnyEncoded]:
        """A text that is longer than ``cutoff_len`` as several, one after the other; anything else as it is."""
        size = self.job.cutoff_len
        if self.job.stage != "pt" or len(row.input_ids) <= size:
            return [row]
        starts = range(0, len(row.input_ids) - 1, size)  # a last token alone would have nothing to learn
        return [Encoded(row.input_ids[at : at + size], row.labels[at : at + size]) for at in starts]

    def chunk(self, rows: list[NumberedRow]) -> Chunk:
        """The rows as they are kept on the disk; one with nothing to learn is counted, not kept."""
        counts = Counts()
        kept: list[tuple[int, AnyEncoded]] = []
        for (number, _), encoded in zip(rows, self.encode(rows), strict=True):
            if counts.count(encoded):
                kept += [(number, piece) for piece in self.pieces(encoded)]
        return Chunk(as_columns(kept, self.entry.name), counts)


def _row(example: AnyExample, encoded: list[Encoded]) -> AnyEncoded:
    if isinstance(example, Preference):
        return EncodedPair(*encoded)
    return EncodedOpinion(encoded[0], example.is_desirable) if isinstance(example, Judged) else encoded[0]


def usable_processes(asked: int | None, recorder: Recorder) -> int:
    """``preprocessing_num_workers`` within what this machine has; None: one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked is not None and asked > cores:
        recorder.warn("workers_capped", asked=asked, cores=cores)
    return min(asked or cores, cores)


def encoded_chunks(encoder: RowEncoder, rows: Iterable[NumberedRow], processes: int) -> Iterator[Chunk]:
    """Encode rows; what comes out, errors too, does not depend on the number of processes.

    Raises:
        UserError: the first row that cannot be read or does not fit.
    """
    if not type(encoder.tokenizer).__module__.startswith("transformers."):
        processes = 1  # its code came with the model, and another process would not find it
    chunks = chunked(rows, CHUNK_ROWS)
    for chunk in islice(chunks, SMALL_ROWS // CHUNK_ROWS if processes > 1 else None):
        yield encoder.chunk(chunk)
    first = next(chunks, None)
    if first:
        yield from _in_processes(encoder, _put_back(first, chunks), processes)


def chunked(rows: Iterable[NumberedRow], size: int) -> Iterator[list[NumberedRow]]:
    """Lists of rows. Where a row cannot be read, those before it come first, then the error."""
    chunk: list[NumberedRow] = []
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _put_back(first: list[NumberedRow], chunks: Iterator[list[NumberedRow]]) -> Iterator[list[NumberedRow]]:
    yield first
    yield from chunks


def _in_processes(encoder: RowEncoder, chunks: Iterator[list[NumberedRow]], processes: int) -> Iterator[Chunk]:
    with TemporaryDirectory() as folder:
        # By way of a file: what is handed to a process at its start must fit into a pipe, or a process that dies then
        # is waited for without end (Python 3.10 to 3.13, popen_spawn_posix).
        path = Path(folder) / "encoder"
        path.write_bytes(pickle.dumps(encoder))
        # Processes that are started anew, not forked: torch and the tokenizer hold threads by now, and locks with them.
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (path,))
        yield from _pooled(pool, chunks, processes * WAITING_CHUNKS)


def _pooled(pool: ProcessPoolExecutor, chunks: Iterator[list[NumberedRow]], most_waiting: int) -> Iterator[Chunk]:
    """What the processes make of the chunks, in their order; the pool is closed in the end."""
    waiting: deque[Any] = deque()
    unread: UserError | None = None
    is_read = False
    try:
        while True:
            while not is_read and len(waiting) < most_waiting:
                try:
                    waiting.append(pool.submit(_encode, next(chunks)))
                except StopIteration:
                    is_read = True
                except UserError as error:  # raised once the rows before it are through
                    unread, is_read = error, True
            if not waiting:
                break
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("encoding_process_died") from error
    finally:
        pool.shutdown(cancel_futures=True)
    if unread:
        raise unread


_encoder: RowEncoder | None = None
"""Of a process that encodes: sent once, not with every chunk."""


def _start(encoder: Path) -> None:
    global _encoder
    _encoder = pickle.loads(encoder.read_bytes())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have processes of their own
    end_with_parent()


def _encode(rows: list[NumberedRow]) -> Chunk:
    return _encoder.chunk(rows)
