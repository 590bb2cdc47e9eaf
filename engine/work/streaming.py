"""Rows that are read and encoded while training goes on: in an order that depends on the seed alone, without end."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import astuple
from itertools import count, groupby
from typing import Any, NamedTuple

import datasets
import torch
from datasets.iterable_dataset import ExamplesIterable
from torch.utils.data import IterableDataset, get_worker_info

from engine.catalog.entry import Entry
from engine.catalog.rows import NumberedRow, rows_of
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.work.chunks import Counts
from engine.work.encode import AnyEncoded
from engine.work.encoders import RowEncoder
from engine.work.mixing import mixed

TOGETHER = 64
"""So many rows are tokenized at once."""

FEATURES = datasets.Features(
    {"source": datasets.Value("int32"), "number": datasets.Value("int64"), "row": datasets.Value("binary")}
)


class Fault(NamedTuple):
    """An error of a row, on its way out of the process that reads: an exception would arrive as something else."""

    key: str
    facts: dict[str, Any]


class StreamedRows(IterableDataset):
    """Encoded rows as they come; when the data ends it is read again, in another order.

    So the end of the data is no end of an epoch for the trainer, and a resumed run that skips what it has seen goes
    on at the right row, however often the data was read.
    """

    def __init__(self, encoders: list[RowEncoder], stream: datasets.IterableDataset) -> None:
        self._encoders, self._stream = encoders, stream
        self._counted = torch.tensor(astuple(Counts())).share_memory_()  # a reading process counts for this one

    @property
    def counts(self) -> Counts:
        """What became of the rows so far, those read ahead or skipped included."""
        return Counts(*self._counted.tolist())

    def __iter__(self) -> Iterator[AnyEncoded | Fault]:
        try:
            for epoch in count():
                self._stream.set_epoch(epoch)
                before = self.counts.tokens
                for encoder, rows in by_source(self._encoders, self._stream):
                    yield from self._learned(encoder, rows)
                if self.counts.tokens == before:
                    names = ", ".join(encoder.entry.name for encoder in self._encoders)
                    raise UserError("nothing_to_learn", datasets=names)
        except UserError as error:
            if get_worker_info() is None:
                raise
            yield Fault(error.key, error.facts)

    def _learned(self, encoder: RowEncoder, rows: list[NumberedRow]) -> list[AnyEncoded]:
        counts = Counts()
        learned = [row for row in encoder.encode(rows) if counts.count(row)]
        self._counted += torch.tensor(astuple(counts))
        return [piece for row in learned for piece in encoder.pieces(row)]


def raw_stream(entries: list[Entry], job: TrainJob) -> datasets.IterableDataset:
    """The rows of all datasets as they lie on the disk, mixed; nothing is read before they are asked for."""
    streams = [
        # Not from_generator, which leaves a lock file for every stream in the user's cache.
        datasets.IterableDataset(
            ExamplesIterable(_items, {"source": source, "entry": entry}), datasets.DatasetInfo(features=FEATURES)
        )
        for source, entry in enumerate(entries)
    ]
    return mixed(streams, job, job.mix_strategy)


def shuffled(stream: datasets.IterableDataset, job: TrainJob) -> datasets.IterableDataset:
    return stream if job.disable_shuffling else stream.shuffle(seed=job.seed, buffer_size=job.buffer_size)


def by_source(
    encoders: list[RowEncoder], stream: datasets.IterableDataset
) -> Iterator[tuple[RowEncoder, list[NumberedRow]]]:
    """Rows that follow each other and come from one dataset, with what encodes them; never too many at once."""
    # In batches, since one by one datasets would give them in another order to a process of a data loader.
    for batch in stream.iter(TOGETHER):
        items = zip(batch["source"], batch["number"], batch["row"], strict=True)
        for source, group in groupby(items, key=lambda item: item[0]):
            yield encoders[source], [(number, pickle.loads(row)) for _, number, row in group]


def _items(source: int, entry: Entry) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in rows_of(entry.path):
        yield number, {"source": source, "number": number, "row": pickle.dumps(row)}
