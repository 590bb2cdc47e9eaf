"""Which rows of which dataset are learned, and in which order the datasets follow each other; always by the seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from pyarrow import parquet

from engine.catalog.entry import Entry
from engine.catalog.rows import NumberedRow, files_of, rows_of
from engine.errors import UserError
from engine.options.jobs import TrainJob

STOPPING = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}
"""``mix_strategy`` → when datasets' ``interleave_datasets`` ends."""

BLOCK_BYTES = 2**20

Set = TypeVar("Set", Dataset, IterableDataset)


def mixed(sets: list[Set], job: TrainJob, strategy: str) -> Set:
    """Several datasets as one: one after the other, or drawn from in turn, with shares if the job names some."""
    if len(sets) == 1:
        return sets[0]
    if strategy == "concat":
        return concatenate_datasets(sets)
    shares = numpy.array(job.interleave_probs, dtype=float)
    return interleave_datasets(
        sets,
        probabilities=(shares / shares.sum()).tolist() if shares.size else None,
        seed=job.seed,
        stopping_strategy=STOPPING[strategy],
    )


def hold_out(rows: Dataset, val_size: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split rows at random, the same way for the same seed: those to train on, and those held out.

    A row that is there more than once is held out as a whole, once.

    Args:
        val_size: below 1 the share of rows to hold out (at least one row), from 1 on their number.

    Raises:
        UserError: nothing would be left to train on.
    """
    first, same = _repeats(rows)
    count = max(1, round(len(first) * val_size)) if val_size < 1 else int(val_size)
    if count >= len(first):
        raise UserError("val_size_too_large", val_size=val_size, rows=len(first))
    is_held_out = numpy.zeros(len(first), dtype=bool)
    is_held_out[numpy.random.default_rng(seed).permutation(len(first))[:count]] = True
    return rows.select(numpy.flatnonzero(~is_held_out[same])), rows.select(first[is_held_out])


def _repeats(rows: Dataset) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Where each row stands for the first time, and for each place which of these rows stands there."""
    table = rows.with_format("arrow", columns=["row", "dataset"])[:]
    source = table["dataset"].combine_chunks().dictionary_encode().indices.to_numpy()
    identity = table["row"].to_numpy() + (source.astype(numpy.int64) << 40)
    _, first, same = numpy.unique(identity, return_index=True, return_inverse=True)
    order = numpy.argsort(first)
    rank = numpy.empty_like(order)
    rank[order] = numpy.arange(len(order))
    return first[order], rank[same]


def drawn(entry: Entry, job: TrainJob) -> numpy.ndarray | None:
    """The numbers of the rows that ``num_samples`` draws, in the order drawn; None: all rows are used as they come.

    More than there are means each row once, and then again rows drawn at random.
    """
    if not entry.num_samples:
        return None
    count = sum(1 for _ in rows_of(entry.path))
    random = numpy.random.default_rng(job.seed)
    order = random.permutation(count)[: entry.num_samples]
    if entry.num_samples > count:
        order = numpy.concatenate([order, random.integers(count, size=entry.num_samples - count)])
    return order[: job.max_samples] + 1


def used_rows(entry: Entry, job: TrainJob, numbers: numpy.ndarray | None) -> Iterator[NumberedRow]:
    """The rows that have to be encoded, in the order of the file, each once; no more of it is read than needed."""
    if numbers is None:
        return islice(rows_of(entry.path), job.max_samples)
    return _numbered(rows_of(entry.path), numpy.unique(numbers))


def _numbered(rows: Iterable[NumberedRow], wanted: numpy.ndarray) -> Iterator[NumberedRow]:
    at = 0
    for number, row in rows:
        if number == wanted[at]:
            yield number, row
            at += 1
            if at == len(wanted):
                return


def in_drawn_order(rows: Dataset, numbers: numpy.ndarray | None) -> Dataset:
    """Encoded rows as often, and in the order, as they were drawn; those with nothing to learn are not among them."""
    if numbers is None or not len(rows):
        return rows
    kept = rows.with_format("numpy", columns=["row"])[:]["row"]
    first, after = numpy.searchsorted(kept, numbers), numpy.searchsorted(kept, numbers, side="right")
    return rows.select(numpy.concatenate([numpy.arange(*each) for each in zip(first, after, strict=True)]))


def expected_rows(entry: Entry, job: TrainJob, numbers: numpy.ndarray | None) -> int | None:
    """How many rows there will be to encode, where that can be known without reading them as rows."""
    if numbers is not None:
        return len(numpy.unique(numbers))
    counts = [_count(path) for path in files_of(entry.path)]
    if None in counts:
        return job.max_samples
    return min(sum(counts), job.max_samples or sum(counts))


def _count(path: Path) -> int | None:
    if path.suffix.lower() == ".parquet":
        return parquet.read_metadata(path).num_rows
    if path.suffix.lower() in (".jsonl", ".txt"):
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))
    return None
