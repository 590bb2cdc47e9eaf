"""The trainer of supervised fine-tuning and pre-training: transformers' loop, our batches, loss and checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from engine.work.batching import arrange, collate
from engine.work.encode import Encoded
from engine.work.loss import learned_loss


class SupervisedTrainer(Trainer):
    """Next-token prediction over learned positions.

    Differs from its parent in three things: the examples of a step are arranged by length before they are padded, the
    loss is the mean over the learned tokens of the whole step, and a checkpoint appears under its name only when it is
    complete.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, pad_token_id: int, **given: Any) -> None:
        self._pad_token_id = pad_token_id
        self._unfinished: Path | None = None
        super().__init__(data_collator=self._to_tensors, **given)

    def get_train_dataloader(self) -> DataLoader:
        """Lists of ``Encoded``: tensors are made once all examples of a step are known."""
        self.data_collator, to_tensors = list, self.data_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = to_tensors

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Encoded]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        drawn = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not drawn:
            return [], None
        examples = [example for batch in drawn for example in batch]
        learned = torch.tensor(max(1, sum(example.learned for example in examples)), device=device)
        return [self._to_tensors(batch) for batch in arrange(examples, len(drawn))], learned

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = learned_loss(model, inputs, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def _to_tensors(self, examples: list[Encoded]) -> dict[str, Tensor]:
        return collate(examples, self._pad_token_id)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._unfinished) if self._unfinished else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save into a folder of another name, then rename: a checkpoint that has its name is complete."""
        folder = Path(self.args.output_dir)
        unfinished = folder / ".saving"
        shutil.rmtree(unfinished, ignore_errors=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # counted below, where the others lie
        self._unfinished = unfinished
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = None
            self.args.save_total_limit = limit
        name = f"checkpoint-{self.state.global_step}"
        shutil.rmtree(folder / name, ignore_errors=True)
        (unfinished / name).rename(folder / name)
        unfinished.rmdir()
        best = folder / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        self._delete_older_checkpoints(folder)

    def _delete_older_checkpoints(self, folder: Path) -> None:
        """Keep the latest ``save_total_limit`` checkpoints, and the best one if there is one."""
        if not self.args.save_total_limit:
            return
        found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
        best = f"checkpoint-{self.state.best_global_step}"
        for path in found[: -self.args.save_total_limit]:
            if path.name != best:
                shutil.rmtree(path)
