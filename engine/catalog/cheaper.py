"""What would make a training fit: changes of its options, the cheapest first. Nothing is changed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.catalog.devices import Device
from engine.catalog.memory import Estimate, RowLengths, estimate
from engine.catalog.shape import ModelShape
from engine.options.jobs import TrainJob

MOST = 3
LEAST_CUTOFF = 128
LEAST_RANK = 4


@dataclass(frozen=True)
class Change:
    """Options to set, what is needed then, and what it costs: the sentences ``preflight.costs.<name>``."""

    values: dict[str, Any]
    costs: tuple[str, ...]
    estimate: Estimate


def changes(
    job: TrainJob, shape: ModelShape, device: Device, lengths: RowLengths | None = None
) -> tuple[Change, ...]:  # fmt: skip
    """Up to three ways to make a training fit that does not, or only just does: the cheapest first.

    Each is enough by itself. Where no single option is, the cheaper ones are taken together. Cheapest first means: what
    only costs time comes before what changes the numbers a little, and that before what learns less.
    """
    if estimate(job, shape, device, lengths).verdict in (None, "fits"):
        return ()
    found: list[Change] = []
    together: dict[str, Any] = {}
    costs: tuple[str, ...] = ()
    ladders = list(_ladders(job, device))
    for name, steps in ladders:
        if each := _first_that_fits(job, {}, steps, (name,), shape, device, lengths):
            found.append(each)
    for name, steps in ladders:
        if len(found) >= MOST:
            break
        before = estimate(job.model_copy(update=together), shape, device, lengths).peak_bytes
        if costs and (each := _first_that_fits(job, together, steps, (*costs, name), shape, device, lengths)):
            if not any(set(one.values) <= set(each.values) for one in found):
                found.append(each)
            continue
        all_of_it = {**together, **steps[-1]}
        if estimate(job.model_copy(update=all_of_it), shape, device, lengths).peak_bytes < before:
            together, costs = all_of_it, (*costs, name)
    return tuple(found[:MOST])


def _first_that_fits(
    job: TrainJob, together: dict[str, Any], steps: list[dict[str, Any]], costs: tuple[str, ...], shape: ModelShape,
    device: Device, lengths: RowLengths | None,
) -> Change | None:  # fmt: skip
    for step in steps:
        values = {**together, **step}
        now = estimate(job.model_copy(update=values), shape, device, lengths)
        if now.verdict == "fits":
            return Change(values, costs, now)
    return None


def _ladders(job: TrainJob, device: Device) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each kind of change with its settings, from the mildest to the strongest; the cheapest kind first."""
    if job.disable_gradient_checkpointing:
        yield "checkpointing", [{"disable_gradient_checkpointing": False}]
    sizes, rows, accumulated = [], job.per_device_train_batch_size, job.gradient_accumulation_steps
    while rows > 1 and rows % 2 == 0 and accumulated * 2 <= 1024:
        rows, accumulated = rows // 2, accumulated * 2
        sizes.append({"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated})
    if not sizes and rows > 1:
        sizes.append({"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulated * rows})
    if sizes:
        yield "batch", sizes
    is_adapter = job.finetuning_type in ("lora", "oft")
    if job.processes_here > 1 and job.parallel not in ("fsdp2", "zero3") and not job.quantization_bit:
        yield "shards", [{"parallel": "fsdp2"}]
    if not is_adapter and job.optim.startswith("adamw"):
        if not device.is_cpu and has_bitsandbytes() and "8bit" not in job.optim:
            yield "optim_8bit", [{"optim": "adamw_8bit"}]
        yield "adafactor", [{"optim": "adafactor"}]
    if is_adapter and not device.is_cpu and job.parallel not in ("fsdp2", "zero3") and not job.pissa_init:
        bits = [{"quantization_bit": bit} for bit in ("8", "4") if int(bit) < int(job.quantization_bit or 16)]
        if bits and has_bitsandbytes():
            yield "quantization", bits
    if device.has_fast_bfloat16 and not is_adapter and not (job.pure_bf16 or job.fp16):
        yield "pure_bf16", [{"pure_bf16": True, "bf16": False}]
    if job.finetuning_type == "lora" and job.lora_rank > LEAST_RANK:
        ranks, rank = [], job.lora_rank // 2
        while rank >= LEAST_RANK:
            ranks.append({"lora_rank": rank})
            rank //= 2
        yield "rank", ranks
    if not is_adapter:
        yield "lora", [{"finetuning_type": "lora"}]
    lengths, length = [], job.cutoff_len // 2
    while length >= LEAST_CUTOFF:
        lengths.append({"cutoff_len": length})
        length //= 2
    if lengths:
        yield "cutoff", lengths


def has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None
