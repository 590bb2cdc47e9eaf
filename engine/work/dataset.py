"""Datasets → the rows that training draws from. No row is cut or dropped without being counted."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.compute
from torch.utils.data import Dataset

from engine.catalog.datasets import find_entry
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.chunks import Chunk, Counts
from engine.work.encode import AnyEncoded, Encoded, EncodedOpinion, EncodedPair
from engine.work.encoders import RowEncoder, encoded_chunks, usable_processes
from engine.work.fingerprint import rows_key, tokenizer_digest
from engine.work.mixing import drawn, expected_rows, hold_out, in_drawn_order, mixed, used_rows
from engine.work.packing import Packed
from engine.work.rows_on_disk import Shelf
from engine.work.run_card import tell_files
from engine.work.sources import local_entry
from engine.work.streaming import StreamedRows, by_source, raw_stream, shuffled

COLUMNS = {"preference": ("rejected_ids", "rejected_labels"), "kto": ("is_desirable",)}
"""Kind of dataset → what a row has beside ids and labels."""


class Rows(Dataset):
    """Encoded rows as PyTorch wants them, read from the disk one by one.

    Args:
        counts: what became of the rows that were read.
        kind: of the datasets they are from, as in ``Entry.kind``.
    """

    def __init__(self, rows: datasets.Dataset, counts: Counts, kind: str = "sft") -> None:
        self.table, self.counts, self.kind = rows, counts, kind
        self._tokens = rows.select_columns(["input_ids", "labels", *COLUMNS.get(kind, ())])

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> AnyEncoded:
        row = self._tokens[index]
        encoded = Encoded(row["input_ids"], row["labels"])
        if self.kind == "preference":
            return EncodedPair(encoded, Encoded(row["rejected_ids"], row["rejected_labels"]))
        return EncodedOpinion(encoded, row["is_desirable"]) if self.kind == "kto" else encoded

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        batches = self._tokens.select_columns("input_ids").with_format("arrow").iter(1000)
        return [n for batch in batches for n in pyarrow.compute.list_value_length(batch["input_ids"]).to_pylist()]


class Prepared(NamedTuple):
    """What a job learns from and what it is evaluated on."""

    train: Rows | Packed | StreamedRows
    evaluation: Rows | None


def prepare(job: TrainJob, tokenizer: Any, recorder: Recorder) -> Prepared:
    """Read, convert and encode what a job learns from, and hold out what it is evaluated on.

    Raises:
        UserError: a dataset is missing, broken or empty, or leaves nothing to learn.
        StopRequested: somebody asked the run to stop.
    """
    work = _Preparation(job, tokenizer, recorder)
    learned, measured = work.encoders(job.dataset), work.encoders(job.eval_dataset)
    with work.shelf.taken(recorder):
        evaluation = work.rows(measured, "concat") if measured else None
        if job.streaming:
            return work.streamed(learned, evaluation)
        rows = work.rows(learned, job.mix_strategy)
    tell(rows.counts, job, recorder)
    if job.val_size and not measured:
        train, held_out = hold_out(rows.table, job.val_size, job.seed)
        rows, evaluation = Rows(train, rows.counts, rows.kind), Rows(held_out, Counts(), rows.kind)
    if job.neat_packing or job.packing or (job.packing is None and job.stage == "pt"):
        return Prepared(Packed(rows, rows.lengths(), job.cutoff_len, rows.counts), evaluation)
    return Prepared(rows, evaluation)


def tell(counts: Counts, job: TrainJob, recorder: Recorder) -> None:
    """Say what became of the rows that are learned from, and warn of what was lost."""
    if counts.rows_cut:
        lost = {"tokens": counts.learned_tokens_cut, "answers": counts.answers_cut}
        recorder.warn("rows_cut", rows=counts.rows_cut, of=counts.rows, cutoff=job.cutoff_len, **lost)
    if counts.rows_with_nothing_to_learn:
        recorder.warn("rows_with_nothing_to_learn", rows=counts.rows_with_nothing_to_learn, of=counts.rows)
    if counts.thoughts_dropped:
        recorder.warn("thoughts_dropped", thoughts=counts.thoughts_dropped, rows=counts.rows)
    recorder.event(dataset=vars(counts))


def remove_rows(folder: Folder) -> None:
    """Forget the encoded rows of a run that has ended well; those in ``tokenized_path`` stay."""
    shutil.rmtree(folder.rows, ignore_errors=True)


@dataclass(frozen=True)
class _Preparation:
    job: TrainJob
    tokenizer: Any
    recorder: Recorder

    @cached_property
    def shelf(self) -> Shelf:
        keeps = self.job.tokenized_path and not self.job.streaming
        return Shelf(Path(self.job.tokenized_path).expanduser() if keeps else self.recorder.folder.rows)

    @cached_property
    def processes(self) -> int:
        return usable_processes(self.job.preprocessing_num_workers, self.recorder)

    @cached_property
    def tokenizer_digest(self) -> str:
        return tokenizer_digest(self.tokenizer)

    def encoders(self, names: Iterable[str]) -> list[RowEncoder]:
        """What encodes each dataset, fetched from where it lies and seen to be of a kind that is learned from."""
        found = []
        for name in names:
            entry = local_entry(find_entry(Path(self.job.dataset_dir), name), self.job, self.recorder)
            found.append(RowEncoder(self.job, self.tokenizer, entry))
            found[-1].check()
            tell_files(entry, self.job, self.recorder)
        return found

    def rows(self, encoders: list[RowEncoder], mix_strategy: str) -> Rows:
        """All datasets, encoded and mixed."""
        counts = Counts()
        tables = []
        for encoder in encoders:
            table, counted = self.table(encoder, counts.rows)
            counts.add(counted)
            self.recorder.event(dataset_rows={"dataset": encoder.entry.name, **vars(counted)})
            tables.append(table)
        if not all(map(len, tables)) and (mix_strategy != "concat" or not any(map(len, tables))):
            empty = [encoder.entry.name for encoder, table in zip(encoders, tables, strict=True) if not len(table)]
            facts = {"datasets": ", ".join(empty), "rows": counts.rows, "cutoff": self.job.cutoff_len}
            raise UserError("answers_all_cut" if counts.learned_tokens_cut else "nothing_to_learn", **facts)
        return Rows(mixed(tables, self.job, mix_strategy), counts, encoders[0].entry.kind)

    def table(self, encoder: RowEncoder, rows_before: int) -> tuple[datasets.Dataset, Counts]:
        """One dataset, encoded now or found where it was encoded before; as often and in the order as it is used."""
        entry = encoder.entry
        key = rows_key(self.job, entry, self.tokenizer_digest)
        stored = None if self.job.overwrite_cache else self.shelf.find(key)
        numbers = drawn(entry, self.job)
        if stored:
            facts = {"dataset": entry.name, "rows": stored.counts.rows, "folder": str(self.shelf.folder)}
            self.recorder.event(rows_reused=facts)
        else:
            chunks = encoded_chunks(encoder, used_rows(entry, self.job, numbers), self.processes)
            total = expected_rows(entry, self.job, numbers)
            stored = self.shelf.put(key, entry.name, self._watched(chunks, rows_before, total))
        return in_drawn_order(stored.rows, numbers), stored.counts

    def streamed(self, encoders: list[RowEncoder], evaluation: Rows | None) -> Prepared:
        """Rows that are encoded while training goes on; the first ``val_size`` of them are held out, encoded now."""
        for encoder in encoders:
            if encoder.entry.num_samples:
                raise UserError("streaming_num_samples", dataset=encoder.entry.name)
        stream = raw_stream([encoder.entry for encoder in encoders], self.job)
        if self.job.val_size and evaluation is None:
            count = int(self.job.val_size)
            chunks = (encoder.chunk(rows) for encoder, rows in by_source(encoders, stream.take(count)))
            stored = self.shelf.put(secrets.token_hex(32), "", self._watched(chunks, 0, count))
            if not len(stored.rows):
                raise UserError("nothing_to_learn", datasets=", ".join(self.job.dataset))
            evaluation, stream = Rows(stored.rows, stored.counts, encoders[0].entry.kind), stream.skip(count)
        return Prepared(StreamedRows(encoders, shuffled(stream, self.job)), evaluation)

    def _watched(self, chunks: Iterator[Chunk], rows_before: int, total: int | None) -> Iterator[Chunk]:
        """The same chunks; the run is told how far they are, and may be stopped."""
        done = rows_before
        for chunk in chunks:
            yield chunk
            done += chunk.counts.rows
            self.recorder.phase("encoding", done, total and rows_before + total, "rows")
            self.recorder.check_stop()
        self.recorder.phase("encoding", done, done, "rows")
