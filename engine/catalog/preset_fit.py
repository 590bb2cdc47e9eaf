"""Makes the values of a preset fit into a device's memory: what costs only time comes before what learns less."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from engine.catalog.cheaper import has_bitsandbytes
from engine.catalog.devices import Device
from engine.catalog.disk import rows_of_a_step
from engine.catalog.memory import Estimate, RowLengths, estimate
from engine.catalog.shape import ModelShape
from engine.options.jobs import TrainJob
from engine.options.rules_devices import SHARDED

MOST_ROWS = 16
"""Of a micro-batch: beyond that even a small model keeps a device busy."""
FEW_ROWS = 4
"""Of a micro-batch on a CPU of few cores; on one of many, each computes a row."""
UNKNOWN_ROWS = 1
"""Of a micro-batch where nothing is known of the model."""
SHORTER = (512, 256, 128)
LOWER = (8, 4)


@dataclass(frozen=True)
class Fitted:
    """Values, reasons for those that memory has decided by option, and the estimate; None: nothing is known."""

    values: dict[str, Any]
    why: dict[str, str]
    estimate: Estimate | None


def fitted(
    job: TrainJob, values: dict[str, Any], step_rows: int, shape: ModelShape | None, device: Device,
    lengths: RowLengths | None, fixed: Collection[str] = (),
) -> Fitted:  # fmt: skip
    """The values with a micro-batch that fits, changed no further than they have to be.

    Of the micro-batches the largest is taken that needs no activations computed again, as that costs a third of the
    time; where none does without, the largest that fits at all. If nothing fits, the smallest is given.

    Args:
        step_rows: rows of an optimizer step, over all processes.
        fixed: options that are left as the job has them.
    """
    asked = job.model_copy(update=values)
    if shape is None:
        return Fitted({**values, **_last(asked, step_rows, UNKNOWN_ROWS, fixed)}, {}, None)
    found = None
    for changed, why in _sacrifices(asked, device, fixed):
        tried = [
            ({**values, **changed, **split}, asked.model_copy(update={**changed, **split}))
            for split in _splits(asked, step_rows, _most_rows(device), fixed)
        ]
        estimates = [(each, estimate(tried_job, shape, device, lengths)) for each, tried_job in tried]
        if not device.free_bytes:  # the system does not say: one row at a time takes the least
            return Fitted(estimates[-1][0], why, estimates[-1][1])
        fitting = [(each, size) for each, size in estimates if size.verdict == "fits"]
        best = next((each for each in fitting if not each[1].is_checkpointed), next(iter(fitting), None))
        found = Fitted(*(best or estimates[-1])[:1], why, (best or estimates[-1])[1])
        if best:
            break
    return found


def _most_rows(device: Device) -> int:
    return MOST_ROWS if not device.is_cpu else max(FEW_ROWS, min(MOST_ROWS, device.cores))


def _splits(job: TrainJob, step_rows: int, most: int, fixed: Collection[str]) -> Iterator[dict[str, int]]:
    """Every way to take so many rows a step, the largest micro-batch first; what is fixed decides the other."""
    processes = max(1, rows_of_a_step(job) // (job.per_device_train_batch_size * job.gradient_accumulation_steps))
    rows = ceil(step_rows / processes)
    batch, times = "per_device_train_batch_size", "gradient_accumulation_steps"
    if batch in fixed or times in fixed or job.is_layerwise:
        each = job.per_device_train_batch_size if batch in fixed else max(1, rows // job.gradient_accumulation_steps)
        split = {batch: each, times: 1 if job.is_layerwise else max(1, rows // each)}
        yield {name: value for name, value in split.items() if name not in fixed}
        return
    for each in range(min(rows, most), 0, -1):
        if rows % each == 0:
            yield {batch: each, times: rows // each}


def _last(job: TrainJob, step_rows: int, most: int, fixed: Collection[str]) -> dict[str, int]:
    return list(_splits(job, step_rows, most, fixed))[-1]


def _sacrifices(
    job: TrainJob, device: Device, fixed: Collection[str]
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:  # fmt: skip
    """What is given up, step by step, each on top of those before it; with the reason by option."""
    changed: dict[str, Any] = {}
    why: dict[str, str] = {}
    yield {}, {}
    for option, value, key in _steps(job, device):
        if option not in fixed:
            changed, why = {**changed, option: value}, {**why, option: key}
            yield changed, why


def _steps(job: TrainJob, device: Device) -> Iterator[tuple[str, Any, str]]:
    """Option, value, reason: the mildest first."""
    if _can_be_quantized(job, device):
        yield "quantization_bit", "4", "four_bits"
    if job.finetuning_type in ("full", "freeze") and job.optim == "adamw_torch" and not job.optimizers_by_switch:
        if not device.is_cpu and has_bitsandbytes():
            yield "optim", "adamw_8bit", "smaller_optimizer"
        yield "optim", "adafactor", "smaller_optimizer"
        if device.has_fast_bfloat16 and not job.upcast_layernorm:
            yield "pure_bf16", True, "pure_bf16"
    for length in SHORTER[:2]:
        if length < job.cutoff_len:
            yield "cutoff_len", length, "cutoff_memory"
    if job.finetuning_type == "lora" and (job.create_new_adapter or not job.adapter_name_or_path):
        for rank in LOWER:
            if rank < job.lora_rank:
                yield "lora_rank", rank, "rank_memory"
    if SHORTER[-1] < job.cutoff_len:
        yield "cutoff_len", SHORTER[-1], "cutoff_memory"


def _can_be_quantized(job: TrainJob, device: Device) -> bool:
    """Whether 4 bits are allowed beside the job's other options (``engine.options.rules_methods``)."""
    is_adapter = job.finetuning_type in ("lora", "oft")
    is_begun = len(job.adapter_name_or_path) > 1 or (job.adapter_name_or_path and job.create_new_adapter)
    is_free = not (job.pissa_init or job.trains_vocabulary or is_begun or job.quantization_bit)
    is_whole = job.parallel not in SHARDED and not any(
        job.training_arguments.get(each) for each in ("deepspeed", "fsdp")
    )
    return is_adapter and is_free and is_whole and not device.is_cpu and has_bitsandbytes()
