"""Which examples of an optimizer step share a micro-batch, and how they become tensors.

The examples of a step are those the sampler drew, and the loss is the mean over the learned tokens of the step, so
their arrangement changes nothing but the amount of padding that is computed for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.work.encode import IGNORED, Encoded


def arrange(examples: Sequence[Encoded], micro_batches: int) -> list[list[Encoded]]:
    """Split the examples of one step into micro-batches of like lengths, the longest first.

    The longest come first so that a batch too big for the memory fails at once, not after an hour. No micro-batch is
    empty as long as there are at least as many examples as micro-batches.
    """
    by_length = sorted(examples, key=lambda example: len(example.input_ids), reverse=True)
    size, larger = divmod(len(by_length), micro_batches)
    batches, at = [], 0
    for index in range(micro_batches):
        end = at + size + (index < larger)
        batches.append(by_length[at:end])
        at = end
    return batches


def collate(examples: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Tensors of shape (B, T), padded on the right to the longest example: input_ids, attention_mask, labels."""
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    batch = {
        "input_ids": torch.full(shape, pad_token_id, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED, dtype=torch.long),
    }
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        batch["input_ids"][row, :length] = torch.tensor(example.input_ids)
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, :length] = torch.tensor(example.labels)
    return batch
