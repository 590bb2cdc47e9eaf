"""Which examples of an optimizer step share a micro-batch, and how they become tensors.

The examples of a step are those the sampler drew, and the loss is the mean over the learned tokens of the step, so
their arrangement changes nothing but the amount of padding that is computed for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from engine.work.encode import IGNORED, Encoded
from engine.work.packing import positions


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
    """A padded micro-batch, for models that cannot take ``packed.flatten``'s.

    Returns:
        input_ids, attention_mask and labels (B, T), padded on the right to the longest example; where rows are joined
        position_ids in place of the attention_mask, which keep them apart. learned_at (N,): flat positions whose
        output predicts a learned token, targets (N,): those tokens, owner (N,): the example of each; tokens: of all.
    """
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
    if any(example.parts for example in examples):
        del batch["attention_mask"]
        batch["position_ids"] = torch.tensor(
            [positions(example.parts or (len(example.input_ids),), longest) for example in examples]
        )
    predicted = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    batch["learned_at"] = (predicted != IGNORED).flatten().nonzero().squeeze(1)
    batch["targets"] = predicted.flatten()[batch["learned_at"]]
    batch["owner"] = batch["learned_at"] // longest
    batch["tokens"] = torch.tensor(sum(len(example.input_ids) for example in examples))
    return batch
