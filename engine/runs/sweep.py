"""A job again with one option changed, or with each of several values of one or two options."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import UserError
from engine.options.command import job_from
from engine.options.jobs import TrainJob

MOST_OPTIONS = 2
ANEW = {"output_dir": None, "overwrite_output_dir": False, "resume_from_checkpoint": None}
"""Of a job that was done before: done again, it is a run of its own and goes on from nothing."""


def changed_job(job: TrainJob, name: str, value: Any) -> TrainJob:
    """The same job in a new folder, with another value of one option, however it is typed.

    Raises:
        Refused: there is no such option, or the job is not valid with this value.
    """
    return sweep_jobs(job, {name: [value]})[0]


def sweep_jobs(job: TrainJob, values: Mapping[str, Sequence[Any]]) -> list[TrainJob]:
    """A job for each value of one option, or for each pair of values of two; the last option changes fastest.

    Raises:
        UserError: more options than two.
        Refused: as :func:`changed_job`, for the first job that is not valid.
    """
    if len(values) > MOST_OPTIONS:
        raise UserError("queue.sweep_too_wide", options=", ".join(values), most=MOST_OPTIONS)
    jobs = []
    for chosen in itertools.product(*values.values()):
        changes = dict(zip(values, chosen, strict=True))
        jobs.append(job_from(type(job), {**job.values(), **ANEW, **changes}).job)
    return jobs
