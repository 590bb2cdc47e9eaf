"""The base of every stage's trainer: transformers' loop, our steps, metrics and checkpoints. It knows no loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard
from torch import Tensor
from transformers import Trainer

from engine.errors import UserError
from engine.work.arrangement import Collate, collate_for, has_dropout, is_laid_out
from engine.work.batching import arrange
from engine.work.checkpoints import AtomicCheckpoints
from engine.work.doctor import Examined
from engine.work.parts import InParts
from engine.work.ranks import SPARE, within
from engine.work.schedule import schedule_settings
from engine.work.streaming import Fault


class StepTrainer(Examined, InParts, AtomicCheckpoints, Trainer):
    """Trains in steps whose loss does not depend on how their examples are arranged into micro-batches.

    A stage supplies ``step_totals`` (what its loss divides by, over the whole step) and ``loss_of`` (a micro-batch's
    share of that loss). The examples of a step are those the sampler drew; they are arranged by ``batching.arrange``
    and become tensors only then.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, pad_token_id: int, **given: Any) -> None:
        self.pad_token_id = pad_token_id
        self._noted: dict[str, list[Tensor]] = {}
        self._evaluated: list[tuple[Tensor, Tensor]] = []
        super().__init__(data_collator=list, **given)
        self._collate = self.collation()

    def step_totals(self, examples: Sequence[Any]) -> Tensor:
        """What the loss of these examples is divided by, as sums over examples: a number, or several as a vector.

        In evaluation the loss of a batch counts by the first of them.
        """
        raise NotImplementedError

    def loss_of(self, model: Any, batch: dict[str, Tensor], totals: Tensor) -> Tensor:
        """This micro-batch's share of the loss of a step: the shares of a step add up to its loss; a scalar.

        Args:
            totals: ``step_totals`` of all examples of the step, of every process.
        """
        raise NotImplementedError

    def collation(self) -> Collate:
        """What makes a micro-batch of sequences, for the trained model and what it is held against."""
        other = getattr(getattr(self, "_reference", None), "model", None)
        models = [self.model] if other is None else [self.model, other]
        return collate_for(models, self.pad_token_id, is_noisy=bool(self.args.neftune_noise_alpha))

    @property
    def is_laid_out(self) -> bool:
        """Whether micro-batches are without padding and nothing about them is random."""
        return is_laid_out(self.model) and not has_dropout(self.model) and not self.args.neftune_noise_alpha

    def to_tensors(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """One micro-batch."""
        return self._collate(examples)

    def note(self, **values: Tensor) -> None:
        """Remember values, one for each example or a scalar, whose mean the next log line carries."""
        for name, value in values.items():
            self._noted.setdefault(name, []).append(value.detach().float().flatten())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.args.lr_scheduler_kwargs = schedule_settings(self.args, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        drawn = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not drawn:
            return [], None
        examples = [example for batch in drawn for example in batch]
        for example in examples:
            if isinstance(example, Fault):
                raise UserError(example.key, **example.facts)
        totals = self.step_totals(examples).to(device)
        ranks = self.accelerator.num_processes
        mine = arrange(examples, len(drawn) * ranks)[self.accelerator.process_index :: ranks]
        made = [self.step_batch(batch) if batch else self._batch(examples[-1:], is_spare=True) for batch in mine]
        return made, totals

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *given: Any, **named: Any) -> Any:
        """Of several ranks each draws the whole step, and computes its share of it.

        So a step has the same examples in the same micro-batches as with one process, also at an epoch's end, where
        others would draw some examples twice; and at each turn all ranks have micro-batches of like lengths.
        """
        ranks = self.accelerator.num_processes
        loader = super()._get_dataloader(dataset, description, batch_size * ranks, *given, **named)
        for shard in (loader.batch_sampler, loader.dataset):  # accelerate would deal the batches out to the ranks
            if isinstance(shard, BatchSamplerShard):
                shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
            elif isinstance(shard, IterableDatasetShard):
                shard.num_processes, shard.process_index, shard.batch_size = 1, 0, 1
        return loader

    def _batch(self, examples: Sequence[Any], is_spare: bool = False) -> dict[str, Any]:
        """One micro-batch; a spare one counts for nothing, and is there because all ranks compute equally often."""
        return {**self.to_tensors(examples), **({SPARE: True} if is_spare else {})}

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if SPARE in inputs:
            inputs = {**inputs, "attention_mask": torch.zeros(1)}
        elif "tokens" in inputs:  # more than are laid out, where beginnings are shared
            inputs = {**inputs, "attention_mask": inputs["tokens"]}
        super()._track_num_input_tokens(inputs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # Gradients are averaged over processes, and the shares of all of them are to be added.
        loss = self._loss(model, inputs, num_items_in_batch) * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _loss(self, model: Any, inputs: dict[str, Any], totals: Tensor) -> Tensor:
        """``loss_of`` on the model itself, run inside what wraps it, which prepares weights and gradients."""
        is_spare = SPARE in inputs
        inputs = {name: value for name, value in inputs.items() if name != SPARE}
        noted = self._noted
        if is_spare:
            self._noted = {}
        own = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        loss = within(model, own, lambda: self.loss_of(own, inputs, totals))
        self._noted = noted
        return loss * 0 if is_spare else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """As the parent's; of weights gathered from shards, those that are one and the same are saved once."""
        if state_dict:
            tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
            state_dict = {name: tensor for name, tensor in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)

    def prediction_step(
        self, model: Any, inputs: list[Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        mine = inputs[self.accelerator.process_index :: self.accelerator.num_processes]
        totals = self.step_totals(mine or inputs[-1:]).to(self.args.device)
        batch = self._prepare_inputs(self._batch(mine or inputs[-1:], is_spare=not mine))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self._loss(model, batch, totals).detach()
        weight = totals.flatten()[0] * bool(mine)
        self._evaluated.append((loss * weight, weight))
        return loss, None, None

    def evaluation_loop(self, *given: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """As the parent's, with means over what the loss counts, whatever the batches, and with the noted values."""
        kept, self._noted, self._evaluated = self._noted, {}, []
        try:
            output = super().evaluation_loop(*given, metric_key_prefix=metric_key_prefix, **named)
            noted = self.taken_notes()
        finally:
            self._noted = kept
        if self._evaluated:
            loss, weight = self._over_processes(torch.stack([torch.stack(each) for each in self._evaluated]).sum(0))
            output.metrics[f"{metric_key_prefix}_loss"] = (loss / weight.clamp(min=1)).item()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in noted.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.taken_notes()}
        super().log(logs, start_time)

    def taken_notes(self) -> dict[str, float]:
        """The mean of each noted name over all processes; forgotten thereafter."""
        values = {name: torch.cat(noted).tolist() for name, noted in self._noted.items()}
        self._noted = {}
        if self.accelerator.num_processes > 1:
            gathered: list[Any] = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(gathered, values)
            names = dict.fromkeys(name for each in gathered for name in each)
            values = {name: [value for each in gathered for value in each.get(name, ())] for name in names}
        return {name: sum(noted) / len(noted) for name, noted in values.items() if noted}

    def _over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values
