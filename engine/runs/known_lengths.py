"""What an earlier preflight has found out about the rows of a training, so that it need not be counted again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.datasets import find_entry
from engine.catalog.memory import RowLengths
from engine.errors import UserError
from engine.options.data import Data
from engine.options.jobs import TrainJob
from engine.options.model import Model, Vocabulary
from engine.runs.folder import SAVES, Folder, model_label
from engine.runs.read import State, read_job, read_state

ELSEWHERE = {
    "cutoff_len", "flash_attn", "infer_dtype", "cache_dir", "hub", "tokenized_path", "overwrite_cache", "buffer_size",
    "preprocessing_num_workers", "eval_dataset",
}  # fmt: skip
"""Options of these groups that change nothing about the lengths of rows, or are compared by themselves."""


class Found(NamedTuple):
    """The folder of an earlier preflight, and what it has left behind."""

    folder: Folder
    state: State
    job: TrainJob


def known_lengths(job: TrainJob) -> RowLengths | None:
    """The lengths of the rows that a job learns from, if a preflight of the same rows has counted them."""
    for found in _earlier(job):
        if plain := found.state.result.get("lengths"):
            lengths = RowLengths.from_plain(plain)
            longest = max((row.longest for row in lengths.longest), default=0)
            if job.cutoff_len <= found.job.cutoff_len or longest < found.job.cutoff_len:
                return lengths
    return None


def measured(job: TrainJob) -> dict[str, Any] | None:
    """What two steps of exactly this training have taken, if they were tried; as ``engine.work.preflight`` says it."""
    asked = _told(job)
    for found in _earlier(job):
        if found.state.result.get("measured") and _told(found.job) == asked:
            return found.state.result["measured"]
    return None


def _earlier(job: TrainJob) -> list[Found]:
    """Preflights of the same rows that have ended well, the latest first."""
    rows, changed = _rows(job), _changed_at(job)
    found = []
    for path in (SAVES / model_label(job.model_name_or_path) / "preflight").glob("preflight_*"):
        try:
            folder = Folder(path)
            state = read_state(folder)
            if state.status == "done" and (state.started_at or 0) > changed:
                earlier = read_job(folder)
                if _rows(earlier) == rows:
                    found.append(Found(folder, state, earlier))
        except (OSError, ValueError, KeyError, UserError):
            continue  # deleted meanwhile, or of another version
    return sorted(found, key=lambda each: each.state.started_at or 0, reverse=True)


def _rows(job: TrainJob) -> dict[str, Any]:
    """All that decides which rows there are and how long they are, but for the cutoff."""
    names = {name for group in (Data, Model, Vocabulary) for name in group.model_fields} - ELSEWHERE
    return {"stage": job.stage, **{name: getattr(job, name) for name in names}}


def _told(job: TrainJob) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in TrainJob.model_fields}
    return {name: value for name, value in values.items() if name not in ("output_dir", "overwrite_output_dir")}


def _changed_at(job: TrainJob) -> float:
    """When the datasets' files were last changed; seconds since 1970."""
    times = [0.0]
    for name in job.dataset:
        try:
            path = find_entry(Path(job.dataset_dir), name).path
            times.append(path.stat().st_mtime)
        except (UserError, OSError, AttributeError):
            continue  # on a hub, or gone: the start says so
    return max(times)
