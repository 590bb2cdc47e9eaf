"""Encoded rows as columns, and what became of the rows that were read; loads no torch and no datasets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pyarrow

from engine.work.encode import AnyEncoded, EncodedOpinion, EncodedPair, sequences_of

TOKENS = pyarrow.list_(pyarrow.int32())
SCHEMA = pyarrow.schema(
    [
        ("input_ids", TOKENS), ("labels", TOKENS), ("rejected_ids", TOKENS), ("rejected_labels", TOKENS),
        ("is_desirable", pyarrow.bool_()), ("row", pyarrow.int64()), ("dataset", pyarrow.string()),
    ]
)  # fmt: skip
"""``row`` is the number in its dataset, counted from 1; ids and labels have the same length.

The rejected answer of a pair has columns of its own, beside which ``input_ids`` is the chosen one; an answer that is
judged says which way. Both are null where there is no such thing.
"""


@dataclass
class Counts:
    """What became of the rows that were read. Lengths in tokens.

    Args:
        answers_cut: answers that lost their end, and with it the mark that a model learns to stop at.
        thoughts_dropped: thoughts that the chat template leaves out of what the model sees.
    """

    rows: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0
    learned_tokens_cut: int = 0
    answers_cut: int = 0
    thoughts_dropped: int = 0
    rows_with_nothing_to_learn: int = 0

    def count(self, row: AnyEncoded) -> bool:
        """Count one row; returns whether there is anything to learn in it: of a pair, in both."""
        parts = sequences_of(row)
        self.rows += 1
        self.rows_cut += any(part.cut > 0 for part in parts)
        for part in parts:
            self.tokens_cut += part.cut
            self.learned_tokens_cut += part.cut_learned
            self.answers_cut += part.cut_answers
            self.thoughts_dropped += part.thoughts_dropped
        if not all(part.learned for part in parts):
            self.rows_with_nothing_to_learn += 1
            return False
        for part in parts:
            self.tokens += len(part.input_ids)
            self.learned_tokens += part.learned
        return True

    def add(self, other: Counts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Chunk(NamedTuple):
    """Some encoded rows, in the order in which they were read, and what became of the others."""

    batch: pyarrow.RecordBatch
    counts: Counts


def as_columns(rows: list[tuple[int, AnyEncoded]], dataset: str) -> pyarrow.RecordBatch:
    """Numbered rows of one dataset as they are kept on the disk."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number, row in rows:
        first = sequences_of(row)[0]
        rejected = row.rejected if isinstance(row, EncodedPair) else None
        values = {
            "input_ids": first.input_ids, "labels": first.labels,
            "rejected_ids": rejected and rejected.input_ids, "rejected_labels": rejected and rejected.labels,
            "is_desirable": row.is_desirable if isinstance(row, EncodedOpinion) else None,
            "row": number, "dataset": dataset,
        }  # fmt: skip
        for name, value in values.items():
            columns[name].append(value)
    arrays = [pyarrow.array(columns[field.name], field.type) for field in SCHEMA]
    return pyarrow.record_batch(arrays, schema=SCHEMA)
