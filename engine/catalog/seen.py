"""Rows as a model sees them, as plain values for a terminal or another program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from engine.catalog.conversations import Judged, Preference, to_example
from engine.catalog.entry import Entry
from engine.catalog.learned import AnyExample, example_segments
from engine.catalog.rendering import Renderer
from engine.catalog.rows import Row
from engine.errors import UserError
from engine.options.jobs import DataJob

Encode = Callable[[AnyExample], list[dict[str, list[int]]]]
"""``input_ids`` and ``labels`` of each sequence of a row."""


def seen_rows(
    job: DataJob,
    renderer: Renderer,
    entry: Entry,
    rows: Iterable[tuple[int, Row | UserError]],
    language: str,
    encode: Encode | None = None,
) -> Iterator[dict[str, Any]]:
    """For each row ``{"row", "segments": [{"text", "learned"}, …]}``; joined, the texts are what the model sees.

    A preference has ``chosen`` and ``rejected`` with segments each, a judged answer ``desirable`` beside them. With
    ``encode`` each has ``input_ids`` and ``labels`` as well. A row that cannot be used has an ``error``.
    """
    for number, content in rows:
        try:
            yield {"row": number, **_seen(job, renderer, entry, number, content, encode)}
        except UserError as error:
            yield {"row": number, "error": error.text(language)}


def _seen(
    job: DataJob, renderer: Renderer, entry: Entry, number: int, content: Row | UserError, encode: Encode | None
) -> dict[str, Any]:
    if isinstance(content, UserError):
        raise content
    example = to_example(content, entry, number)
    sequences: list[dict[str, Any]] = [
        {"segments": [segment._asdict() for segment in segments]}
        for segments in example_segments(job, renderer, example)
    ]
    if encode:
        for sequence, encoded in zip(sequences, encode(example), strict=True):
            sequence.update(encoded)
    if isinstance(example, Preference):
        return dict(zip(("chosen", "rejected"), sequences, strict=True))
    return {**sequences[0], **({"desirable": example.is_desirable} if isinstance(example, Judged) else {})}
