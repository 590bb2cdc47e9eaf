"""How much a training writes: its checkpoints and its result, in bytes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from engine.catalog.devices import precision
from engine.catalog.memory import BYTES, Estimate, RowLengths, trained_weights
from engine.catalog.optimizers import state_bytes
from engine.options.jobs import TrainJob

TOKENIZER_BYTES = 8e6
"""Tokenizer, configuration and states of a checkpoint beside its weights; half of it or less for most models."""


@dataclass(frozen=True)
class DiskUse:
    """What a training leaves on the disk.

    Args:
        checkpoints: how many lie there at the same time; None: as many as there are steps for, which is not known yet.
        merged_bytes: what ``export`` of an adapter would write later; 0 where whole models are trained.
        free_bytes: of the disk on which the output folder lies.
    """

    checkpoint_bytes: int
    checkpoints: int | None
    result_bytes: int
    merged_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Of checkpoints and result; at the fullest moment a new checkpoint stands beside the old ones."""
        return self.checkpoint_bytes * ((self.checkpoints or 1) + 1) + self.result_bytes

    @property
    def is_enough(self) -> bool:
        return self.needed_bytes <= self.free_bytes


def total_steps(job: TrainJob, lengths: RowLengths | None) -> int | None:
    """Optimizer steps of the whole training; None: the number of rows is not known."""
    if job.max_steps > 0:
        return job.max_steps
    if lengths is None:
        return None
    return max(1, ceil(ceil(lengths.rows / rows_of_a_step(job)) * job.num_train_epochs))


def rows_of_a_step(job: TrainJob) -> int:
    processes = max(1, job.processes_here) * job.nnodes
    return job.per_device_train_batch_size * job.gradient_accumulation_steps * processes


def disk_use(
    job: TrainJob, found: Estimate, lengths: RowLengths | None = None, free_bytes: int | None = None
) -> DiskUse:
    """What a training writes.

    Args:
        found: what is known of its memory.
        free_bytes: None: as the disk of its output folder says.
    """
    trained = trained_weights(job, found.shape)
    chosen = precision(found.device, bf16=job.bf16, fp16=job.fp16, pure_bf16=job.pure_bf16)
    result = sum(each.count for each in trained) * BYTES[chosen.trained]
    whole = found.shape.stored_bytes or found.shape.parameters * 2
    if job.finetuning_type == "freeze":  # a whole model is written, whatever of it was trained
        frozen = found.shape.parameters - sum(each.count for each in trained)
        result += frozen * BYTES[chosen.weights]
    result += TOKENIZER_BYTES
    only_model = bool(job.training_arguments.get("save_only_model"))
    state = 0 if only_model else state_bytes(job.optim, trained, BYTES[chosen.trained])
    free = free_bytes if free_bytes is not None else _free(job.output_dir)
    is_adapter = job.finetuning_type in ("lora", "oft")
    count = _checkpoints(job, lengths)
    return DiskUse(ceil(result + state), count, ceil(result), ceil(whole) if is_adapter else 0, free)


def _checkpoints(job: TrainJob, lengths: RowLengths | None) -> int | None:
    if job.save_strategy == "no":
        return 0
    steps = total_steps(job, lengths)
    written = None
    if job.save_strategy == "epoch":
        written = ceil(job.num_train_epochs)
    elif steps is not None:
        every = job.save_steps if job.save_steps >= 1 else max(1, job.save_steps * steps)
        written = ceil(steps / every)  # the last step is saved too
    if job.save_total_limit is None:
        return written
    return job.save_total_limit if written is None else min(written, job.save_total_limit)


def _free(output_dir: str | None) -> int:
    place = Path(output_dir or "saves").expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
