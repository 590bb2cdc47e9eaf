"""Learning from pairs of answers: the losses of stage dpo, and what they compare with.

The losses are short formulas on log-probabilities of whole answers. trl's trainers are not used for them: they
tokenize and mask rows for themselves, and what is shown of a row has to be what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.options.jobs import TrainJob
from engine.work.encode import EncodedPair
from engine.work.loss import sequence_logps
from engine.work.trainer import StepTrainer

AVERAGED = ("ipo", "orpo", "simpo")
"""Losses that compare the mean of an answer's token log-probabilities; the others compare their sum."""


class Ratios(NamedTuple):
    """Log-probabilities of answers, less those of the reference model where there is one. Each of shape (P,)."""

    chosen: Tensor
    rejected: Tensor


def sigmoid_loss(logps: Ratios, job: TrainJob) -> Tensor:
    """Rafailov et al. 2023, arXiv 2305.18290, equation 7; with smoothing Mitchell 2023 (cDPO)."""
    margin = job.pref_beta * (logps.chosen - logps.rejected)
    right, wrong = functional.logsigmoid(margin), functional.logsigmoid(-margin)
    return -(1 - job.dpo_label_smoothing) * right - job.dpo_label_smoothing * wrong


def hinge_loss(logps: Ratios, job: TrainJob) -> Tensor:
    """Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425, on the normalised likelihoods of Liu et al., arXiv 2309.06657."""
    return functional.relu(1 - job.pref_beta * (logps.chosen - logps.rejected))


def ipo_loss(logps: Ratios, job: TrainJob) -> Tensor:
    """Azar et al. 2023, arXiv 2310.12036, equation 17; of means, as its authors found to be right."""
    return (logps.chosen - logps.rejected - 1 / (2 * job.pref_beta)) ** 2


def orpo_loss(logps: Ratios, job: TrainJob) -> Tensor:
    """Hong et al. 2024, arXiv 2403.07691, equations 6 and 7: the chosen answer's loss and the log odds ratio."""

    def log_odds(mean: Tensor) -> Tensor:
        return mean - torch.log1p(-torch.exp(mean).clamp(max=1 - 1e-7))  # a probability of 1 has no odds

    return -logps.chosen - job.pref_beta * functional.logsigmoid(log_odds(logps.chosen) - log_odds(logps.rejected))


def simpo_loss(logps: Ratios, job: TrainJob) -> Tensor:
    """Meng et al. 2024, arXiv 2405.14734, equation 6; ``simpo_gamma`` is the margin between rewards."""
    return -functional.logsigmoid(job.pref_beta * (logps.chosen - logps.rejected) - job.simpo_gamma)


def kto_pair_loss(logps: Ratios, job: TrainJob, mean: Ratios) -> Tensor:
    """Ethayarajh et al. 2024, arXiv 2402.01306, for pairs: each half is held against the step's mean of the other."""
    chosen = 1 - torch.sigmoid(job.pref_beta * (logps.chosen - mean.rejected.clamp(min=0)))
    rejected = 1 - torch.sigmoid(job.pref_beta * (mean.chosen.clamp(min=0) - logps.rejected))
    return (chosen + rejected) / 2


def bco_loss(logps: Ratios, job: TrainJob, mean: Ratios) -> Tensor:
    """Jung et al. 2024, arXiv 2404.04656: each answer is told apart from the mean reward of the step.

    The paper moves that mean over all steps before; here it is the step's own, so that a resumed run is no other.
    """
    delta = job.pref_beta * (mean.chosen + mean.rejected) / 2
    right, wrong = job.pref_beta * logps.chosen - delta, job.pref_beta * logps.rejected - delta
    return -functional.logsigmoid(right) - functional.logsigmoid(-wrong)


LOSSES: dict[str, Callable[[Ratios, TrainJob], Tensor]] = {
    "sigmoid": sigmoid_loss, "hinge": hinge_loss, "ipo": ipo_loss, "orpo": orpo_loss, "simpo": simpo_loss,
}  # fmt: skip


def preference_loss(logps: Ratios, job: TrainJob, mean: Ratios | None = None) -> Tensor:
    """The loss of each pair, shape (P,), without ``pref_ftx``.

    Args:
        logps: less the reference's, where the loss has one; means over tokens for ``AVERAGED``, else sums.
        mean: of the whole step, no gradient; needed by ``kto_pair`` and ``pref_bco_weight``.
    """
    losses = kto_pair_loss(logps, job, mean) if job.pref_loss == "kto_pair" else LOSSES[job.pref_loss](logps, job)
    weight = job.pref_bco_weight if job.needs_reference else 0
    return (losses + weight * bco_loss(logps, job, mean)) / (1 + weight) if weight else losses


@dataclass(frozen=True)
class Reference:
    """What the model said before it was trained.

    Args:
        model: a frozen model of its own; None: the model that is trained, with its adapter switched off.
    """

    model: Any = None

    @contextmanager
    def of(self, trained: Any) -> Iterator[Any]:
        """The reference model, to be called without gradient and without dropout."""
        if self.model is not None:
            with torch.no_grad():
                yield self.model
        else:
            with measured(trained), trained.disable_adapter():
                yield trained


@contextmanager
def measured(model: Any) -> Iterator[None]:
    """No gradient and no dropout for as long as it lasts."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class PreferenceTrainer(StepTrainer):
    """The loss of a step is the mean over its pairs."""

    def __init__(self, job: TrainJob, reference: Reference | None, **given: Any) -> None:
        self._job, self._reference = job, reference
        super().__init__(**given)

    def to_tensors(self, examples: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """All chosen answers, then all rejected ones. With ``ld_alpha``, tokens beyond the other answer's length
        belong to sequences of their own: 2P further ones."""
        sequences = [pair.chosen for pair in examples] + [pair.rejected for pair in examples]
        batch = super().to_tensors(sequences)
        if self._job.ld_alpha is not None:
            shorter = [min(pair.chosen.learned, pair.rejected.learned) for pair in examples] * 2
            batch["owner"] = with_tails(batch, shorter)
        return {**batch, "pairs": torch.tensor(len(examples))}

    def step_totals(self, examples: Sequence[EncodedPair]) -> Tensor:
        """The number of pairs; where the loss needs it, also the sums of what ``Ratios`` holds."""
        count = torch.tensor([float(len(examples))])
        if self._job.pref_loss != "kto_pair" and not (self._job.pref_bco_weight and self._job.needs_reference):
            return count
        sums = torch.zeros(2)
        size = self.args.per_device_train_batch_size
        for at in range(0, len(examples), size):
            batch = self._prepare_inputs(self.to_tensors(examples[at : at + size]))
            with measured(self.model), self.compute_loss_context_manager():
                logps, _, _ = self._logps(self.model, batch)
                sums += torch.stack([logps.chosen.sum(), logps.rejected.sum()]).cpu()
        return torch.cat([count, sums])

    def loss_of(self, model: Any, batch: dict[str, Tensor], totals: Tensor) -> Tensor:
        job = self._job
        logps, sums, tokens = self._logps(model, batch)
        mean = Ratios(*(totals[1:] / totals[0])) if len(totals) > 1 else None
        losses = preference_loss(logps, job, mean)
        if job.pref_ftx:
            losses = losses - job.pref_ftx * sums[0] / tokens[0]
        rewards = Ratios(*(job.pref_beta * each.detach() for each in logps))
        self.note(**{
            "rewards/chosen": rewards.chosen, "rewards/rejected": rewards.rejected,
            "rewards/accuracies": (rewards.chosen > rewards.rejected).float(),
            "rewards/margins": rewards.chosen - rewards.rejected,
            "logps/chosen": sums[0], "logps/rejected": sums[1],
        })  # fmt: skip
        return losses.sum() / totals[0]

    def _logps(self, model: Any, batch: dict[str, Tensor]) -> tuple[Ratios, Tensor, Tensor]:
        """What the loss compares; and the plain sums and token counts, shape (2, P): chosen, rejected."""
        batch = dict(batch)
        pairs = int(batch.pop("pairs"))
        compared, sums, tokens = self._answers(model, batch, pairs)
        if self._job.needs_reference:
            with self._reference.of(model) as reference:
                before, _, _ = self._answers(reference, batch, pairs)
            compared = compared - before
        return Ratios(*compared), sums, tokens

    def _answers(self, model: Any, batch: dict[str, Tensor], pairs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each answer what is compared, its sum and its tokens; each of shape (2, P)."""
        alpha = self._job.ld_alpha
        sums, tokens = (
            each.view(-1, 2, pairs) for each in sequence_logps(model, batch, pairs * (2 if alpha is None else 4))
        )
        compared = sums[0] if alpha is None else sums[0] + alpha * sums[1]
        sums, tokens = sums.sum(0), tokens.sum(0)
        return compared / tokens if self._job.pref_loss in AVERAGED else compared, sums, tokens


def with_tails(batch: dict[str, Tensor], shorter: Sequence[int]) -> Tensor:
    """``batch["owner"]`` in which learned tokens beyond ``shorter[s]`` of sequence s belong to sequence S + s.

    Long answers then count less than their length (Liu et al. 2024, LD-DPO, arXiv 2409.06411).
    """
    owner = batch["owner"].clone()
    for index, limit in enumerate(shorter):
        places = (batch["owner"] == index).nonzero().squeeze(1)
        owner[places[limit:]] = index + len(shorter)
    return owner
