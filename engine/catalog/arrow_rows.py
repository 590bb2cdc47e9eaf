"""Rows of Parquet and Arrow files, a batch at a time; pyarrow is loaded when the first one is read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from engine.catalog.places import Place, Row
from engine.errors import UserError

BATCH_ROWS = 256
BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ArrowRows:
    """Rows of a file with types."""

    path: Path

    @property
    def count(self) -> int:
        """How many rows there are, from the file's own tables.

        Raises:
            UserError: the file is broken.
        """
        import pyarrow

        try:
            if self.path.suffix.lower() == ".parquet":
                from pyarrow import parquet

                with parquet.ParquetFile(self.path, memory_map=True) as file:
                    return file.metadata.num_rows
            with pyarrow.memory_map(str(self.path)) as source:
                return sum(batch.num_rows for batch in _ipc_batches(source))
        except (pyarrow.ArrowException, ValueError) as error:
            raise self._fault(error) from error

    def pieces(self, place: Place | None = None) -> Iterator[tuple[Place, Any]]:
        import pyarrow

        at = place.offset if place else 0
        try:
            for batch in self._batches_from(at):
                for row in _rows(batch):
                    yield Place(at, 0, 0), self._fault(row) if isinstance(row, Exception) else _as_written(row)
                    at += 1
        except (pyarrow.ArrowException, ValueError) as error:
            yield Place(at, 0, 0), self._fault(error)

    def parse(self, place: Place, piece: Any, number: int) -> Row | UserError:
        return piece

    def _batches_from(self, start: int) -> Iterator[Any]:
        """Batches of the rows from ``start`` on."""
        import pyarrow

        if self.path.suffix.lower() == ".parquet":
            yield from self._parquet_batches(start)
            return
        with pyarrow.memory_map(str(self.path)) as source:
            for batch in _ipc_batches(source):
                for first in range(min(start, batch.num_rows), batch.num_rows, BATCH_ROWS):
                    yield batch.slice(first, BATCH_ROWS)
                start = max(0, start - batch.num_rows)

    def _parquet_batches(self, start: int) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path, memory_map=True) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            ends = list(accumulate(group.num_rows for group in groups))
            first = bisect_right(ends, start)
            start -= ends[first - 1] if first else 0
            for index in range(first, len(groups)):
                per_row = max(1, groups[index].total_byte_size // max(1, groups[index].num_rows))
                size = max(1, min(BATCH_ROWS, BATCH_BYTES // per_row))
                for batch in file.iter_batches(batch_size=size, row_groups=[index]):
                    if start < batch.num_rows:
                        yield batch.slice(start)
                    start = max(0, start - batch.num_rows)

    def _fault(self, error: Exception) -> UserError:
        return UserError("dataset_arrow", path=self.path, detail=(str(error).splitlines() or [""])[0])


def _rows(batch: Any) -> list[Row | Exception]:
    try:
        return batch.to_pylist()
    except ValueError:  # a text that is not UTF-8: find out whose
        rows: list[Row | Exception] = []
        for index in range(batch.num_rows):
            try:
                rows += batch.slice(index, 1).to_pylist()
            except ValueError as error:
                rows.append(error)
        return rows


def _as_written(row: Row) -> Row:
    """A row without what Arrow adds to it: a key that one mapping has is null in all others of its column."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _ipc_batches(source: Any) -> Iterator[Any]:
    """Both shapes of an .arrow file: the stream that Hugging Face's datasets writes, and the file with a footer."""
    from pyarrow import ipc

    start = source.read(6)
    source.seek(0)
    if start == b"ARROW1":
        reader = ipc.open_file(source)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from ipc.open_stream(source)
