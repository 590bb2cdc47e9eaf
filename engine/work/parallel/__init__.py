"""How several processes share a model, as settings of the engines that do it: FSDP2 of torch, ZeRO of DeepSpeed.

The settings are data (``fsdp2.yaml``, ``zero2.yaml``, ``zero3.yaml``); "auto" is filled in by transformers from the
training arguments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from engine.catalog.devices import Device
from engine.options.jobs import TrainJob
from engine.options.rules_devices import SHARDED


def preset(name: str) -> dict[str, Any]:
    """The settings of "fsdp2", "zero2" or "zero3"."""
    return yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))


def parallel_arguments(job: TrainJob, path: str | Path) -> dict[str, Any]:
    """What ``TrainingArguments`` are told for ``parallel``.

    Args:
        path: of the base model.
    """
    if job.parallel == "ddp":
        # Every adapter has its part in every step, so that DDP need not look for those without: but not in a mixture
        # of experts, where some experts see no token.
        is_mixture = "expert" in (Path(path) / "config.json").read_text(encoding="utf-8")
        return {"ddp_find_unused_parameters": is_mixture} if job.finetuning_type in ("lora", "oft") else {}
    return (
        {"fsdp": True, "fsdp_config": preset(job.parallel)}
        if job.parallel == "fsdp2"
        else {"deepspeed": preset(job.parallel)}
    )


def load_address(job: TrainJob, device: Device) -> str:
    """Where weights are read to: a model that will be cut into shards first lies in main memory as a whole."""
    own = job.training_arguments.get("fsdp") or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return "cpu" if job.parallel in SHARDED or own else device.address
