"""Short rows joined into sequences of full length, so that nothing of a batch is padding.

Rows in one sequence do not see each other: positions begin anew with each, by which transformers knows them apart
(``masking_utils.find_packed_sequence_indices`` in 5.23).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset

from engine.work.encode import IGNORED, Encoded

WINDOW = 2000
"""Rows that are looked at together: more would fill the sequences no better, and take quadratically longer."""


def sequences(lengths: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Which rows share a sequence: the longest that is left, then each time the longest that still fits.

    Args:
        lengths: tokens of each row, none over ``capacity``.

    Yields:
        Indices into ``lengths``; every row once.
    """
    for begin in range(0, len(lengths), WINDOW):
        left = sorted((lengths[index], -index) for index in range(begin, min(begin + WINDOW, len(lengths))))
        while left:
            room, chosen = capacity, []
            while (at := bisect_right(left, (room, 0)) - 1) >= 0:
                length, index = left.pop(at)
                chosen.append(-index)
                room -= length
            yield chosen


class Packed(Dataset):
    """Sequences of rows, each with at most ``cutoff_len`` tokens.

    Args:
        rows: encoded rows, none of them longer than that.
        lengths: tokens of each row.
        counts: what became of the rows that were read.
    """

    def __init__(self, rows: Dataset, lengths: Sequence[int], cutoff_len: int, counts: Any = None) -> None:
        self._rows, self.counts = rows, counts
        self._sequences = list(sequences(lengths, cutoff_len))

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> Encoded:
        return join([self._rows[row] for row in self._sequences[index]])


def join(rows: Sequence[Encoded]) -> Encoded:
    """One sequence of several rows. The first token of a row is not learned: nothing of the same row is before it."""
    ids = [token for row in rows for token in row.input_ids]
    labels = [label for row in rows for label in (IGNORED, *row.labels[1:])]
    return Encoded(ids, labels, parts=tuple(len(row.input_ids) for row in rows))


def positions(parts: Sequence[int], width: int) -> list[int]:
    """Position ids of one sequence that begin anew with each of its rows; 0 for padding.

    Without an attention mask beside them, transformers lets a token look at its own row only.

    Args:
        parts: tokens of each row.
        width: T, of the whole sequence.
    """
    ids = [position for length in parts for position in range(length)]
    return ids + [0] * (width - len(ids))
