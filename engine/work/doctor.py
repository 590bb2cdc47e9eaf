"""Stops a training that cannot learn, before its weights are changed, and says why and what to do.

It looks once a step, between the gradients and the optimizer: what is broken there has not yet reached a weight, and no
checkpoint holds any of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from engine.catalog.devices import Precision
from engine.errors import UserError
from engine.options.jobs import TrainJob

FIRST_STEPS = 3
"""What is nothing (a loss, a gradient, a learning rate) is a fault when it is so for so many steps from the first.

One step may be: a warmup begins with a rate of 0. Later a loss may be exactly 0 because all is learned.
"""
SKIPPED_STEPS = 30
"""float16's loss scale is halved at each overflow and begins at 65536: after so many in a row nothing of it is left."""
ZERO_IS_A_FAULT = ("sft", "pt")
"""Stages whose loss is a mean of negative log-probabilities; a margin's or an advantage's may well be exactly 0."""

_ZERO = {"loss": "doctor.loss_zero", "gradient": "doctor.gradient_zero", "rate": "doctor.rate_zero"}


class Doctor:
    """Judges the numbers of each step; knows no model."""

    def __init__(self, job: TrainJob, precision: Precision) -> None:
        self._job, self._precision = job, precision
        self._before: float | None = None  # the last loss that was a number
        self._nothing = dict.fromkeys(_ZERO, 0)
        self._skipped = 0

    def examine(self, step: int, loss: float, norm: float, rate: float, broken_weight: str | None = None) -> None:
        """Look at a step whose gradients are there and whose weights are not yet changed.

        Args:
            step: its number, from 1.
            loss: of the whole step; nats.
            norm: of all gradients, before they are clipped.
            rate: the learning rate it is about to use.
            broken_weight: name of a weight that already holds something that is no number.

        Raises:
            UserError: this run cannot learn, or no longer.
        """
        facts = self._facts(step, loss, norm, rate)
        if not math.isfinite(loss) and broken_weight:
            raise UserError("doctor.weight_broken", **facts, weight=broken_weight)
        if not math.isfinite(loss):
            raise UserError("doctor.loss_overflow" if self._is_float16 else "doctor.loss_broken", **facts)
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped and not self._scales_loss:
            raise UserError("doctor.gradient_overflow" if self._is_float16 else "doctor.gradient_broken", **facts)
        if self._skipped > SKIPPED_STEPS:
            raise UserError("doctor.all_skipped", **facts, count=self._skipped)
        self._before = loss
        if step <= FIRST_STEPS:
            may_be_zero = self._job.stage in ("ppo", "grpo") or self._job.is_layerwise
            self._count(facts, loss=loss == 0 and self._job.stage in ZERO_IS_A_FAULT, rate=rate == 0,
                        gradient=norm == 0 and not may_be_zero)  # fmt: skip

    def _count(self, facts: dict[str, Any], **is_nothing: bool) -> None:
        for name, key in _ZERO.items():
            self._nothing[name] += is_nothing[name]
            if self._nothing[name] == FIRST_STEPS:
                raise UserError(key, **facts, count=FIRST_STEPS)

    def _facts(self, step: int, loss: float, norm: float, rate: float) -> dict[str, Any]:
        return {
            "step": step, "loss": loss, "norm": f"{norm:.3g}", "rate": f"{rate:.3g}", "asked": self._job.learning_rate,
            "lower": f"{self._job.learning_rate / 5:.1g}", "warmup": self._job.warmup_steps,
            "scheduler": self._job.lr_scheduler_type, "cutoff": self._job.cutoff_len,
            "before": "–" if self._before is None else f"{self._before:.4g}",
            "precision": self._precision.autocast if self._scales_loss else self._precision.weights,
        }  # fmt: skip

    @property
    def _scales_loss(self) -> bool:
        return self._precision.autocast == "float16"

    @property
    def _is_float16(self) -> bool:
        return "float16" in (self._precision.autocast, self._precision.weights, self._precision.trained)


class Examined:
    """Mixed into a transformers trainer: every step passes by the doctor, where there is one."""

    doctor: Doctor | None = None
    _step_loss: torch.Tensor | None = None

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*given, **named)
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        loss, self._step_loss = self._step_loss, None
        if self.doctor is not None and loss is not None:
            self._examine(model, loss, norm)
        return norm

    def _examine(self, model: Any, loss: torch.Tensor, norm: Any) -> None:
        """All ranks see the same numbers, and so all of them stop or none."""
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(loss.float(), "mean")
        value = float(loss)
        broken = None if math.isfinite(value) else _broken_weight(model)
        self.doctor.examine(self.state.global_step + 1, value, float(norm), self._get_learning_rate(), broken)


def _broken_weight(model: torch.nn.Module) -> str | None:
    """The first weight with an infinite number in it, or none."""
    return next((name for name, each in model.named_parameters() if not torch.isfinite(each.detach()).all()), None)
