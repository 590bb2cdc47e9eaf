"""A preset for what somebody asks for on this machine: what the page shows, and what ``--preset`` stands for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from engine.catalog.datasets import find_entry
from engine.catalog.devices import Device
from engine.catalog.pages import page_of_rows
from engine.catalog.presets import NAMES, Preset, preset
from engine.catalog.shape import shape_of
from engine.errors import Refused, UserError
from engine.options.jobs import TrainJob
from engine.options.reference import in_our_words
from engine.options.training import further_training_arguments
from engine.runs.known_lengths import known_lengths
from engine.runs.preflight import device_of


def preset_for(name: str, job: TrainJob, found: Sequence[Device], fixed: Collection[str] = ()) -> Preset:
    """A preset for a job on the device that it would get.

    Args:
        found: the devices of this machine.
        fixed: options that stay as the job has them.

    Raises:
        UserError: there is no preset of that name.
    """
    if name not in NAMES:
        raise UserError("preset_unknown", name=name, known=", ".join(NAMES))
    lengths = known_lengths(job)
    shape = shape_of(job.model_name_or_path or "", job.cache_dir)
    return preset(name, job, shape, device_of(job, found), lengths, None if lengths else rows_of(job), fixed)


def rows_of(job: TrainJob) -> int | None:
    """How many rows the datasets have, where that is seen at a glance: not of a large file, nor on a hub."""
    total = 0
    for name in job.dataset:
        try:
            _, count = page_of_rows(find_entry(Path(job.dataset_dir or "."), name), 0, 0)
        except (UserError, OSError):
            return None
        if count is None:
            return None
        total += count
    return total or None


def job_so_far(values: dict[str, Any]) -> TrainJob:
    """What is asked for as far as it is valid: the start says what is wrong with the rest."""
    declared = {*TrainJob.model_fields, *further_training_arguments()} - {"training_arguments"}
    known = {name: value for name, value in in_our_words(TrainJob, values).items() if name in declared}
    try:
        return TrainJob.from_values(known)
    except Refused as refused:
        wrong = {problem.option for problem in refused.problems}
        return TrainJob.from_values({name: value for name, value in known.items() if name not in wrong})


def expanded(values: dict[str, Any], found: Sequence[Device]) -> tuple[dict[str, Any], Preset]:
    """Typed values, ``preset`` among them, with the options in its place; what else was typed stays as it was.

    Returns:
        The values, and what the preset has set of them.

    Raises:
        UserError: there is no preset of that name.
    """
    typed = in_our_words(TrainJob, {name: value for name, value in values.items() if name != "preset"})
    chosen = preset_for(str(values["preset"]), job_so_far(typed), found, fixed=frozenset(typed))
    return {**chosen.values, **typed}, chosen
