"""Losses of fine-tuning that weigh each token of an answer, or look at more than the token that was right.

Each maps logits to one loss a token, so that the arrangement of a step changes nothing; their means over the learned
tokens of a step are what is minimised. The plain loss is not here: it never holds all the logits (``loss.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.options.jobs import TrainJob
from engine.work.loss import learned_logits
from engine.work.preference import Reference, measured
from engine.work.supervised import SupervisedTrainer

TokenLoss = Callable[[Tensor, Tensor], Tensor]

LIKELIEST = 20
"""Tokens over which EAFT measures how undecided a model is."""
UNDECIDED = 3.0
"""About the largest entropy of 20 tokens (ln 20), in nats."""


def token_loss(job: TrainJob) -> TokenLoss:
    """What maps logits (N, V) in float32 and the right tokens (N,) to losses (N,) in nats, for a job that needs it."""
    if job.use_dft_loss or job.use_asft_loss:
        return dft
    if job.use_eaft_loss:
        return lambda logits, targets: eaft(logits, targets, job.eaft_alpha)
    smoothing = job.training_arguments.get("label_smoothing_factor") or 0.0
    return lambda logits, targets: functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=smoothing
    )


def dft(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of a token times its probability, which is not differentiated (Wu et al. 2025, arXiv 2508.05629)."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return losses * torch.exp(-losses.detach())


def eaft(logits: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """The loss of a token times (entropy of the 20 likeliest tokens / 3) to the power of alpha."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    likeliest = logits.detach().topk(min(LIKELIEST, logits.shape[-1]), dim=-1).values
    logps = likeliest.log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    return losses * (entropy / UNDECIDED) ** alpha


def held_to(logits: Tensor, reference: Tensor) -> Tensor:
    """KL divergence (N,) of each token's distribution from the one that the reference model gives, in nats."""
    return functional.kl_div(logits.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(
        -1
    )


def needs_logits(job: TrainJob) -> bool:
    """Whether a job asks for more than the plain loss."""
    smooths = job.training_arguments.get("label_smoothing_factor")
    return job.stage in ("sft", "pt") and bool(job.weighs_tokens or smooths or job.compute_accuracy)


class WeighedTrainer(SupervisedTrainer):
    """The loss of a step is the mean over its learned tokens of what ``token_loss`` gives.

    Args:
        reference: the model before training, for ASFT; else None.
    """

    is_free_of_state = False

    def __init__(self, job: TrainJob, reference: Reference | None, **given: Any) -> None:
        self._job, self._reference, self._token_loss = job, reference, token_loss(job)
        super().__init__(**given)

    def loss_of(self, model: Any, batch: dict[str, Any], totals: Tensor) -> Tensor:
        is_plain = not (self._job.weighs_tokens or self._job.training_arguments.get("label_smoothing_factor"))
        if is_plain and model.training:
            return super().loss_of(model, batch, totals)
        logits = learned_logits(model, batch).float()
        targets = batch["targets"]
        if self._job.compute_accuracy and not model.training:
            self.note(accuracy=logits.argmax(-1) == targets)
        losses = self._token_loss(logits, targets)
        if self._reference is not None:
            with self._reference.of(model) as before, measured(before):
                reference = learned_logits(before, batch).float()
            losses = losses + self._job.asft_alpha * held_to(logits, reference)
        return losses.sum() / totals
