"""A trainer's micro-batches in parts, where all parts can be computed at once; knows no loss and no arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.training_args import OptimizerNames

from engine.work.side_by_side import SideBySide, fits_side_by_side, share_out

PARTS = "parts"
"""Where a micro-batch that is computed in parts holds them."""


class InParts:
    """Mixed into a trainer of transformers: one micro-batch is computed on all cores, a part of its rows on each."""

    is_free_of_state = False
    """Whether ``loss_of`` leaves nothing behind but its result; only then may it run in several threads."""

    def step_batch(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A micro-batch that is learned from."""
        parts = share_out(examples, self._side_by_side.cores) if self._side_by_side else [examples]
        if len(parts) == 1:
            return self.to_tensors(examples)
        tensors = [self.to_tensors(part) for part in parts]
        tokens = torch.stack([each["tokens"] for each in tensors]).sum()
        return {
            PARTS: tensors,
            "input_ids": torch.cat([each["input_ids"] for each in tensors], dim=1),
            "tokens": tokens,
        }

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if PARTS not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # of those without a schedule
            self.optimizer.train()
        own = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        trained = [each for each in own.parameters() if each.requires_grad]
        with self.compute_loss_context_manager():
            return self._side_by_side.add_gradients(
                trained, inputs[PARTS], lambda part: self.loss_of(own, part, num_items_in_batch)
            )

    @cached_property
    def _side_by_side(self) -> SideBySide | None:
        """Asked for the first time before the first step, when the optimizer is there."""
        cores = torch.get_num_threads()
        can = (
            self.is_free_of_state
            and self.is_laid_out
            and cores > 1
            and self.accelerator.num_processes == 1
            and self.accelerator.device.type == "cpu"
            and not self.args.gradient_checkpointing
            and not self.args.torch_compile
            and self.args.optim not in (OptimizerNames.LOMO, OptimizerNames.ADALOMO)  # these do the backward pass
            and fits_side_by_side(self.model)
        )
        return SideBySide(cores) if can else None
