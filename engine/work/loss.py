"""Cross-entropy over learned positions only: no logits are computed where nothing is learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.work.encode import IGNORED


def learned_loss(model: Any, batch: dict[str, Tensor], learned_tokens: Tensor | int | None = None) -> Tensor:
    """Sum of the negative log-likelihoods of a micro-batch's learned tokens, divided by ``learned_tokens``.

    The model's output layer is given the learned positions alone: with a vocabulary of 49k words and half of the
    positions masked, that is a large part of all the work. Whatever a model does with its logits afterwards (soft
    caps, scaling) it still does.

    Args:
        model: a causal language model of transformers, plain or wrapped by peft.
        batch: input_ids, attention_mask and labels, each of shape (B, T).
        learned_tokens: learned tokens of the whole step; None: those of this micro-batch.

    Returns:
        A scalar in float32; nats per token.
    """
    targets = batch["labels"][:, 1:]
    is_learned = targets != IGNORED
    with _only_positions(model, is_learned):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[0]
    total = functional.cross_entropy(logits.float(), targets[is_learned], reduction="sum")
    return total / (is_learned.sum().clamp(min=1) if learned_tokens is None else learned_tokens)


@contextmanager
def _only_positions(model: Any, is_learned: Tensor) -> Iterator[None]:
    """Let the output layer see hidden states (1, n, H) of the n learned positions instead of all (B, T, H)."""

    def select(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (arguments[0][:, :-1][is_learned].unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
