"""Learning from single answers that somebody found good or bad: stage kto (Ethayarajh et al. 2024, arXiv 2402.01306).

As with pairs, trl's trainer is not used: it tokenizes and masks rows for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.options.jobs import TrainJob
from engine.work.encode import IGNORED, Encoded, EncodedOpinion
from engine.work.loss import sequence_logps
from engine.work.preference import Reference, measured
from engine.work.trainer import StepTrainer


def kto_loss(ratios: Tensor, is_desirable: Tensor, distance: Tensor, job: TrainJob) -> Tensor:
    """The loss of each answer, shape (N,): equation 8, with λ_D and λ_U as ``kto_chosen_weight`` and its like.

    Args:
        ratios: log-probability of each answer, less the reference model's, shape (N,).
        is_desirable: of each answer, shape (N,), bool.
        distance: z0, how far the model is from its reference (KL, a scalar, 0 or more); has no gradient.
    """
    gain = job.pref_beta * (ratios - distance)
    good = job.kto_chosen_weight * (1 - torch.sigmoid(gain))
    bad = job.kto_rejected_weight * (1 - torch.sigmoid(-gain))
    return torch.where(is_desirable, good, bad)


def mismatched(examples: Sequence[EncodedOpinion], cutoff_len: int) -> list[Encoded]:
    """Each prompt of a step with the answer before it, the first one with the last: what z0 is estimated on."""
    parts = [_prompt_and_answer(example.answer) for example in examples]
    found = []
    for (prompt, _), (_, answer) in zip(parts, [parts[-1], *parts[:-1]], strict=True):
        ids = (prompt + answer)[: max(cutoff_len, len(prompt) + 1)]
        found.append(Encoded(ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
    return found


def _prompt_and_answer(row: Encoded) -> tuple[list[int], list[int]]:
    begin = next(index for index, label in enumerate(row.labels) if label != IGNORED)
    return row.input_ids[:begin], row.input_ids[begin:]


class KtoTrainer(StepTrainer):
    """The loss of a step is the mean over its answers, good and bad together."""

    def __init__(self, job: TrainJob, reference: Reference, **given: Any) -> None:
        self._job, self._reference = job, reference
        super().__init__(**given)

    def to_tensors(self, examples: Sequence[EncodedOpinion]) -> dict[str, Tensor]:
        batch = super().to_tensors([example.answer for example in examples])
        return {**batch, "is_desirable": torch.tensor([example.is_desirable for example in examples])}

    def step_totals(self, examples: Sequence[EncodedOpinion]) -> Tensor:
        """The number of answers, and the sum of the log ratios of as many mismatched ones.

        They are of the whole step, so that z0 does not depend on how the step is arranged.
        """
        strangers = mismatched(examples, self._job.cutoff_len)
        strangers.sort(key=lambda row: len(row.input_ids), reverse=True)
        size, total = self.args.per_device_train_batch_size, 0.0
        for at in range(0, len(strangers), size):
            batch = self._prepare_inputs(super().to_tensors(strangers[at : at + size]))
            with measured(self.model), self.compute_loss_context_manager():
                total += self._ratios(self.model, batch, len(strangers[at : at + size]))[0].sum().item()
        return torch.tensor([float(len(examples)), total])

    def loss_of(self, model: Any, batch: dict[str, Tensor], totals: Tensor) -> Tensor:
        job, batch = self._job, dict(batch)
        is_desirable = batch.pop("is_desirable")
        ratios, sums, tokens = self._ratios(model, batch, len(is_desirable))
        distance = (totals[1] / totals[0]).clamp(min=0)
        losses = kto_loss(ratios, is_desirable, distance, job)
        if job.pref_ftx:
            losses = losses - job.pref_ftx * torch.where(is_desirable, sums / tokens, 0)
        rewards = job.pref_beta * ratios
        for name, chosen in (("chosen", is_desirable), ("rejected", ~is_desirable)):
            self.note(**{f"rewards/{name}": rewards[chosen], f"logps/{name}": sums[chosen]})
        self.note(kl=distance)
        return losses.sum() / totals[0]

    def taken_notes(self) -> dict[str, float]:
        noted = super().taken_notes()
        if {"rewards/chosen", "rewards/rejected"} <= noted.keys():
            noted["rewards/margins"] = noted["rewards/chosen"] - noted["rewards/rejected"]
        return noted

    def _ratios(self, model: Any, batch: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log ratios, log-probabilities and learned tokens of each sequence, each of shape (S,)."""
        sums, tokens = sequence_logps(model, batch, count)
        with self._reference.of(model) as reference:
            before, _ = sequence_logps(reference, batch, count)
        return sums - before, sums, tokens
