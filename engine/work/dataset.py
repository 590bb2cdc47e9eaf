"""Datasets → encoded rows. No row is cut or dropped without being counted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from torch.utils.data import Dataset

from engine.catalog.datasets import Example, find_entry, read_rows, to_messages
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.record import Recorder
from engine.work.encode import Encoded, Segment, encode, segments
from engine.work.prompt import with_system


class Rows(Dataset):
    """Encoded rows as PyTorch wants them."""

    def __init__(self, rows: list[Encoded]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Encoded:
        return self._rows[index]


@dataclass
class Counts:
    """What became of the rows that were read. Lengths in tokens."""

    rows: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0
    learned_tokens_cut: int = 0
    rows_with_nothing_to_learn: int = 0


class Prepared(NamedTuple):
    train: Rows
    evaluation: Rows | None
    counts: Counts


def prepare(job: TrainJob, tokenizer: Any, recorder: Recorder) -> Prepared:
    """Read, convert and encode what a job learns from, and hold out what it is evaluated on.

    Raises:
        UserError: a dataset is missing, broken or empty, or leaves nothing to learn.
    """
    counts = Counts()
    rows = _encoded(job, job.dataset, tokenizer, recorder, counts)
    if not rows:
        raise UserError("nothing_to_learn", datasets=", ".join(job.dataset))
    if counts.rows_cut:
        recorder.warn(
            "rows_cut", rows=counts.rows_cut, of=counts.rows, cutoff=job.cutoff_len, tokens=counts.learned_tokens_cut
        )
    if counts.rows_with_nothing_to_learn:
        recorder.warn("rows_with_nothing_to_learn", rows=counts.rows_with_nothing_to_learn, of=counts.rows)
    recorder.event(dataset=vars(counts))
    if job.eval_dataset:
        return Prepared(Rows(rows), Rows(_encoded(job, job.eval_dataset, tokenizer, recorder, Counts())), counts)
    if not job.val_size:
        return Prepared(Rows(rows), None, counts)
    train, held_out = hold_out(rows, job.val_size, job.seed)
    return Prepared(Rows(train), Rows(held_out), counts)


def hold_out(rows: list[Encoded], val_size: float, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Split rows at random, the same way for the same seed.

    Args:
        val_size: below 1 the share of rows to hold out (at least one row), from 1 on their number.

    Raises:
        UserError: nothing would be left to train on.
    """
    count = max(1, round(len(rows) * val_size)) if val_size < 1 else int(val_size)
    if count >= len(rows):
        raise UserError("val_size_too_large", val_size=val_size, rows=len(rows))
    order = numpy.random.default_rng(seed).permutation(len(rows))
    held_out = set(order[:count].tolist())
    return (
        [row for index, row in enumerate(rows) if index not in held_out],
        [row for index, row in enumerate(rows) if index in held_out],
    )


def _encoded(job: TrainJob, names: Iterable[str], tokenizer: Any, recorder: Recorder, counts: Counts) -> list[Encoded]:
    rows = []
    for name in names:
        entry = find_entry(Path(job.dataset_dir), name)
        for number, row in islice(read_rows(entry), job.max_samples):
            encoded = encode_example(job, tokenizer, to_messages(row, entry, number))
            counts.rows += 1
            counts.rows_cut += encoded.cut > 0
            counts.tokens_cut += encoded.cut
            counts.learned_tokens_cut += encoded.cut_learned
            if encoded.learned:
                rows.append(encoded)
                counts.tokens += len(encoded.input_ids)
                counts.learned_tokens += encoded.learned
            else:
                counts.rows_with_nothing_to_learn += 1
            if counts.rows % 100 == 0:
                recorder.phase("encoding", counts.rows, unit="rows")
                recorder.check_stop()
    recorder.phase("encoding", counts.rows, counts.rows, "rows")
    return rows


def encode_example(job: TrainJob, tokenizer: Any, example: Example) -> Encoded:
    """One row, exactly as it is trained on."""
    return encode(tokenizer, example_segments(job, tokenizer, example), job.cutoff_len)


def example_segments(job: TrainJob, tokenizer: Any, example: Example) -> list[Segment]:
    """The segments of one row: what the page shows as learned is what is learned.

    Raises:
        UserError: the row has tools, and a template was chosen by name that cannot show them to the model.
    """
    if example.tools and job.template:
        raise UserError("template_without_tools", template=job.template)
    return segments(
        tokenizer,
        with_system(list(example.messages), job),
        train_on_prompt=job.train_on_prompt,
        mask_history=job.mask_history,
        enable_thinking=job.enable_thinking,
        tools=json.loads(example.tools) if example.tools else None,
    )
