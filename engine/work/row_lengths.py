"""The lengths of encoded rows, as the estimate of memory wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.catalog.devices import Device
from engine.catalog.memory import Row, RowLengths, needs_checkpointing
from engine.catalog.shape import shape_of
from engine.options.jobs import TrainJob
from engine.work.dataset import Rows
from engine.work.encode import sequences_of
from engine.work.packing import Packed


def row_lengths(rows: Any, kept: int = RowLengths.KEPT) -> RowLengths | None:
    """The lengths of all rows, with the longest ones in full; None: they are not known before they are trained on.

    Args:
        kept: how many of the longest.
    """
    if not isinstance(rows, Rows | Packed):
        return None
    taken = [rows[index] for index in longest_first(rows)[:kept]]
    longest = tuple(sorted(map(_row, taken), reverse=True))
    if isinstance(rows, Packed):
        return RowLengths(longest, len(rows), sum(row.tokens for row in longest) * len(rows) // len(longest))
    return RowLengths(longest, len(rows), sum(rows.lengths()), _shared([row.input_ids for row in taken]))


def longest_first(rows: Rows | Packed) -> Sequence[int]:
    """Numbers of the rows, those with the most tokens first; of sequences that are filled up any order will do."""
    if isinstance(rows, Packed):
        return range(len(rows))
    tokens = rows.lengths()
    return sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True)


def checkpointing(job: TrainJob, path: str | Path, device: Device, rows: Any) -> bool:
    """Whether activations are computed again in the backward pass: as asked, else where memory needs it."""
    if job.disable_gradient_checkpointing is not None:
        return not job.disable_gradient_checkpointing
    shape = shape_of(str(path))
    return shape is not None and needs_checkpointing(
        job, shape, device, row_lengths(rows, job.per_device_train_batch_size)
    )


def _shared(sequences: list[list[int]]) -> int:
    """Tokens that all of these begin with. The first and the last in order differ the earliest."""
    first, last = min(sequences), max(sequences)
    alike = 0
    while alike < min(len(first), len(last)) and first[alike] == last[alike]:
        alike += 1
    return alike


def _row(row: Any) -> Row:
    sequences = sequences_of(row)
    lengths = [len(each.input_ids) for each in sequences]
    return Row(sum(lengths), sum(each.learned for each in sequences), max(lengths))
