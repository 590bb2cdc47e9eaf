"""The answer to "will it fit?" for one job on this machine: what the terminal and the page show. Loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalog.cheaper import Change, changes
from engine.catalog.devices import Device, best_device
from engine.catalog.disk import DiskUse, disk_use, total_steps
from engine.catalog.memory import Estimate, RowLengths, estimate
from engine.catalog.shape import shape_of
from engine.options.jobs import TrainJob
from engine.runs.known_lengths import known_lengths, measured
from engine.runs.launch import chosen_gpus


@dataclass(frozen=True)
class Answer:
    """What is known before a training.

    Args:
        estimate, disk: None where nothing is known of the model.
        changes: what would make it fit, the cheapest first.
        lengths: None: every row is taken to be ``cutoff_len`` tokens long.
        measured: what two steps of exactly this training took, where they were tried.
        total_steps: of the whole training, where the number of rows is known.
    """

    job: TrainJob
    estimate: Estimate | None
    disk: DiskUse | None
    changes: tuple[Change, ...]
    lengths: RowLengths | None
    measured: dict[str, Any] | None
    total_steps: int | None


def preflight(job: TrainJob, found: Sequence[Device]) -> Answer:
    """Estimate a training on the device that it would get.

    Args:
        found: the devices of this machine.
    """
    lengths, tried = known_lengths(job), measured(job)
    shape = shape_of(job.model_name_or_path or "", job.cache_dir)
    steps = total_steps(job, lengths)
    if shape is None:
        return Answer(job, None, None, (), lengths, tried, steps)
    device = device_of(job, found)
    now = estimate(job, shape, device, lengths)
    ways = changes(job, shape, device, lengths)
    return Answer(job, now, disk_use(job, now, lengths), ways, lengths, tried, steps)


def device_of(job: TrainJob, found: Sequence[Device]) -> Device:
    """The device that decides: of several GPUs the one with the least free memory."""
    gpus = chosen_gpus(job, found)
    return min(gpus, key=lambda gpu: gpu.free_bytes) if gpus else best_device(found)
