"""A job again with one option changed, or with each of several values of one or two options."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import UserError
from engine.options.command import job_from
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.read import UNREADABLE, read_job

MOST_OPTIONS = 2
MOST_RUNS = 64
"""At once; who wants more has more likely written a value too many."""
ANEW = {"output_dir": None, "overwrite_output_dir": False, "resume_from_checkpoint": None}
"""Of a job that was done before: done again, it is a run of its own and goes on from nothing."""


def job_of(folder: Folder) -> TrainJob:
    """What was asked of a training run, however it has ended.

    Raises:
        UserError: the run is no training, or its job cannot be read (any more).
    """
    try:
        job = read_job(folder)
    except UNREADABLE as error:
        raise UserError("sweep.unreadable", name=folder.name, file=folder.job.name, detail=error) from error
    if type(job) is not TrainJob:
        raise UserError("queue.only_training", name=folder.name, kind=job.kind)
    return job


def values_of(text: str) -> list[Any]:
    """``8, 16`` → two values; as JSON where a value holds a comma itself: ``["q_proj,v_proj", "all"]``.

    A comma too many at the end adds no value; a text without any comma is one value, also when it is empty.

    Raises:
        UserError: it begins like JSON, and is no list with something in it.
    """
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError:
            values = []
        if not values:
            raise UserError("sweep.no_list", word=text)
        return values
    parts = [part.strip() for part in text.split(",")]
    return parts[:1] + [part for part in parts[1:] if part]


def changed_job(job: TrainJob, name: str, value: Any) -> TrainJob:
    """The same job in a new folder, with another value of one option, however it is typed.

    Raises:
        Refused: there is no such option, or the job is not valid with this value.
    """
    return sweep_jobs(job, {name: [value]})[0]


def sweep_jobs(job: TrainJob, values: Mapping[str, Sequence[Any]]) -> list[TrainJob]:
    """A job for each value of one option, or for each pair of values of two; the last option changes fastest.

    Values that come to the same, ``8`` and ``08`` for example, make one job.

    Raises:
        UserError: more options than two, or more runs than ``MOST_RUNS``.
        Refused: as :func:`changed_job`, for the first job that is not valid.
    """
    if len(values) > MOST_OPTIONS:
        raise UserError("queue.sweep_too_wide", options=", ".join(values), most=MOST_OPTIONS)
    count = math.prod(map(len, values.values()))
    if count > MOST_RUNS:
        raise UserError("sweep.too_many", count=count, most=MOST_RUNS)
    jobs: list[TrainJob] = []
    for chosen in itertools.product(*values.values()):
        changes = dict(zip(values, chosen, strict=True))
        made = job_from(type(job), {**job.values(), **ANEW, **changes}).job
        if made not in jobs:
            jobs.append(made)
    return jobs
