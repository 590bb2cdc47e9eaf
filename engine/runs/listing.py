"""The list of runs: a few small facts of each, and which of them are shown in what order.

Of a run that recorded its end nothing but ``state.json`` is read; of another the end of its log, never the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from engine.runs.folder import Folder
from engine.runs.notes import read_notes
from engine.runs.read import State, list_runs
from engine.runs.summary import size_on_disk

TAIL_BYTES = 4096
"""So much of the end of a log is read first; eight times as much, again and again, while it holds no loss."""
COLUMNS = (
    "started", "status", "kind", "name", "model", "method", "datasets", "progress", "loss", "best_eval_loss",
    "duration", "size_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """One run in the list.

    Args:
        started: when it started or, if it only waits, was submitted; seconds since 1970.
        duration: from start to end in seconds; None while it has not ended, or if its end was not recorded.
        loss: the last one logged.
        size_bytes: of all files in the run's folder.
    """

    folder: Folder
    name: str
    kind: str
    status: str
    model: str = ""
    method: str = ""
    datasets: tuple[str, ...] = ()
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    best_eval_loss: float | None = None
    started: float | None = None
    duration: float | None = None
    size_bytes: int = 0
    title: str = ""
    note: str = ""

    @property
    def progress(self) -> float | None:
        """Share of the steps that are done, 0 to 1."""
        return self.step / self.total_steps if self.total_steps else None


def listed(*kinds: str) -> list[Listed]:
    """All runs of the given kinds (of every kind, when none is given), the latest first."""
    return rows_of(list_runs(*kinds))


def rows_of(runs: Iterable[tuple[Folder, State]]) -> list[Listed]:
    """A row for each run of what ``list_runs`` gives."""
    return [_listed(folder, state) for folder, state in runs]


def filtered(
    rows: Iterable[Listed], text: str = "", statuses: Sequence[str] = (), kinds: Sequence[str] = ()
) -> list[Listed]:
    """Those with every word of ``text``, and with one of the statuses and kinds.

    The text is sought in name, title, note, model, method and datasets. Upper and lower case are one; an
    empty filter lets all pass.
    """
    sought = text.casefold().split()
    return [
        row for row in rows
        if (not statuses or row.status in statuses)
        and (not kinds or row.kind in kinds)
        and all(word in _text_of(row) for word in sought)
    ]  # fmt: skip


def ordered(rows: Iterable[Listed], column: str, is_reversed: bool = False) -> list[Listed]:
    """Sorted by one of ``COLUMNS``, the least first; runs without a value, or with one that is no number, come last."""
    known, unknown = [], []
    for row in rows:
        value = getattr(row, column)
        (unknown if value in (None, "", ()) or value != value else known).append(row)  # a NaN is not itself
    known.sort(key=lambda row: _key(getattr(row, column)), reverse=is_reversed)
    return known + unknown


def last_step(folder: Folder) -> dict[str, Any]:
    """``step``, ``total_steps`` and ``loss`` as the end of the log has them; what it does not hold is left out."""
    try:
        with folder.events.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            length = TAIL_BYTES
            while True:
                file.seek(max(0, size - length))
                facts = _facts(file.read(), is_whole=length >= size)
                if length >= size or "loss" in facts:
                    return facts
                length *= 8
    except OSError:
        return {}


def _facts(block: bytes, is_whole: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for line in reversed(block.splitlines()[0 if is_whole else 1 :]):
        if b'"current_steps"' not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # torn
        if "step" not in facts:
            facts |= {"step": event["current_steps"], "total_steps": event.get("total_steps") or 0}
        if event.get("loss") is not None:
            return {**facts, "loss": event["loss"]}
    return facts


def _text_of(row: Listed) -> str:
    return " ".join((row.name, row.title, row.note, row.model, row.method, *row.datasets)).casefold()


def _key(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _listed(folder: Folder, state: State) -> Listed:
    about = state.about or _about_of_old(folder)
    kept = state.summary
    has_summary = "finished_at" in kept and kept["finished_at"] == state.finished_at
    place = {name: kept[name] for name in ("step", "total_steps", "loss")} if has_summary else last_step(folder)
    is_timed = state.started_at is not None and state.finished_at is not None
    return Listed(
        folder=folder,
        name=folder.name,
        kind=state.kind,
        status=state.status,
        model=str(about.get("model") or ""),
        method=str(about.get("method") or ""),
        datasets=tuple(map(str, about.get("datasets") or ())),
        started=state.started_at or state.submitted_at,
        duration=state.finished_at - state.started_at if is_timed else None,
        best_eval_loss=kept.get("best_eval_loss"),
        size_bytes=kept["size_bytes"] if has_summary else size_on_disk(folder),
        **vars(read_notes(folder)),
        **place,
    )


def _about_of_old(folder: Folder) -> dict[str, Any]:
    """What ``state.json`` of a run started by an earlier version does not say."""
    try:
        return _parsed(folder, folder.job.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}  # deleted meanwhile, or not written by us


@lru_cache(maxsize=10_000)
def _parsed(folder: Folder, changed_ns: int) -> dict[str, Any]:
    """Read once for each time the file was written: PyYAML takes milliseconds."""
    options = yaml.safe_load(folder.job.read_text(encoding="utf-8"))["options"]
    datasets = options.get("dataset") or ()
    if isinstance(datasets, str):
        datasets = [name.strip() for name in datasets.split(",")]
    return {
        "model": options.get("model_name_or_path"), "method": options.get("finetuning_type"),
        "datasets": datasets,
    }  # fmt: skip
