"""The trainer of supervised fine-tuning and pre-training: next-token prediction over learned positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.work.encode import Encoded
from engine.work.loss import learned_loss
from engine.work.trainer import StepTrainer


class SupervisedTrainer(StepTrainer):
    """The loss of a step is the mean over its learned tokens."""

    is_free_of_state = True

    def step_totals(self, examples: Sequence[Encoded]) -> Tensor:
        return torch.tensor(max(1, sum(example.learned for example in examples)))

    def loss_of(self, model: Any, batch: dict[str, Tensor], totals: Tensor) -> Tensor:
        return learned_loss(model, batch, totals)
