"""Going on with a run that ran out of memory: from its last checkpoint, with smaller micro-batches and more of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from engine.errors import UserError
from engine.options.command import job_from, read_arguments
from engine.options.jobs import EvalJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.resume import resumed_job

OUT_OF_MEMORY = ("out_of_memory", "eval.out_of_memory", "lost_to_memory", "rank_killed")
"""Errors of runs to which a smaller micro-batch may be the remedy."""


class Retry(NamedTuple):
    """A job that goes on with a run, and the options in which it differs from the one before."""

    job: EvalJob | TrainJob
    changes: dict[str, Any]


def ran_out_of_memory(folder: Folder) -> bool:
    """Whether a run ended for want of memory while it trained, as far as is known."""
    error = read_state(folder).error
    return bool(error) and error["key"] in OUT_OF_MEMORY


def retried_job(folder: Folder, arguments: list[str] | None = None) -> Retry:
    """The job that goes on with a run from its last checkpoint, changed.

    Args:
        arguments: ``key=value`` words. Without any, the changes are those of ``cheaper``; with some, those that are
            named and no others.

    Raises:
        UserError: the run cannot go on; it did not run out of memory and nothing is to be changed; nothing is left
            that would need less memory at the same result.
        Refused: what is to be changed is not valid.
    """
    job = resumed_job(folder)
    given = read_arguments(type(job), arguments or [])
    if not given and not ran_out_of_memory(folder):
        raise UserError("retry.memory_sufficed", name=folder.name)
    changes = given or cheaper(job, folder)
    changed = job_from(type(job), {**job.values(), **changes}).job
    return Retry(changed, {name: changed.values().get(name, value) for name, value in changes.items()})


def cheaper(job: EvalJob | TrainJob, folder: Folder) -> dict[str, Any]:
    """Changes that need less memory and leave each step its examples: half the micro-batch and twice as many of them
    (a third of an odd one, and so on); where it is a single row, activations are computed twice and not kept.

    Raises:
        UserError: there are none; what would help changes the result, and is for the user to choose.
    """
    if isinstance(job, EvalJob) and job.per_device_eval_batch_size > 1:
        return {"per_device_eval_batch_size": job.per_device_eval_batch_size // 2}
    if isinstance(job, EvalJob):
        raise UserError("retry.evaluates_single_rows", name=folder.name)
    size = job.per_device_train_batch_size
    if size > 1:
        factor = next(number for number in range(2, size + 1) if size % number == 0)
        return {
            "per_device_train_batch_size": size // factor,
            "gradient_accumulation_steps": job.gradient_accumulation_steps * factor,
        }
    if job.disable_gradient_checkpointing is not False:
        return {"disable_gradient_checkpointing": False}
    shorter = math.ceil(job.cutoff_len / 2)
    raise UserError("retry.nothing_cheaper", name=folder.name, cutoff=job.cutoff_len, shorter=shorter)
