"""LoRA+: the two matrices of an adapter learn at different speeds (Hayou et al. 2024, arXiv 2402.12354)."""

from __future__ import annotations

from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer, TrainingArguments

from engine.options.jobs import TrainJob


def loraplus_optimizer(model: Any, job: TrainJob, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """The optimizer that ``optim`` names, with B and its like at ``loraplus_lr_ratio`` times the rate of A.

    Args:
        model: with adapters; wrapped or not.
        job: has a ``loraplus_lr_ratio``.
    """
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return create_loraplus_optimizer(
        model,
        kind,
        loraplus_lr_ratio=job.loraplus_lr_ratio,
        loraplus_lr_embedding=job.loraplus_lr_embedding,
        loraplus_weight_decay=arguments.weight_decay,
        **settings,
    )
