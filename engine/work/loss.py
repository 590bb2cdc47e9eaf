"""Log-probabilities of learned tokens: the one place where training asks the model for them.

No logits are computed where nothing is learned, and those that are, in pieces: with a vocabulary of 49k words they
are the largest tensors of all. Knows neither stages nor how a batch was arranged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.work.attention import NO_MASK
from engine.work.head import is_plain_head, summed_nll, token_logps

Batch = dict[str, Any]


def learned_loss(model: Any, batch: Batch, learned_tokens: Tensor | int | None = None) -> Tensor:
    """Sum of the negative log-likelihoods of a micro-batch's learned tokens, divided by ``learned_tokens``.

    Args:
        model: a causal language model of transformers, plain or wrapped by peft.
        batch: of ``batching.collate`` or ``packed.flatten``.
        learned_tokens: learned tokens of the whole step; None: those of this micro-batch.

    Returns:
        A scalar in float32; nats per token.
    """
    hidden, head = _before_head(model, batch)
    if head is None:
        total = functional.cross_entropy(hidden.float(), batch["targets"], reduction="sum")
    else:
        total = summed_nll(hidden, head.weight, head.bias, batch["targets"])
    return total / (max(1, len(batch["targets"])) if learned_tokens is None else learned_tokens)


def sequence_logps(model: Any, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities (natural) of the learned part of each sequence of a micro-batch.

    Args:
        batch: as for ``learned_loss``; ``owner`` says which of the ``count`` sequences (S) a learned token is of.

    Returns:
        Sums over the learned tokens (S,), float32, and how many these are (S,).
    """
    hidden, head = _before_head(model, batch)
    if head is None:
        logps = -functional.cross_entropy(hidden.float(), batch["targets"], reduction="none")
    else:
        logps = token_logps(hidden, head.weight, head.bias, batch["targets"])
    sums = torch.zeros(count, device=logps.device).index_add(0, batch["owner"], logps)
    return sums, torch.zeros_like(sums).index_add(0, batch["owner"], torch.ones_like(logps))


def learned_logits(model: Any, batch: Batch) -> Tensor:
    """Logits (N, V) of the learned tokens, whole: for losses that look at the whole distribution."""
    with _only_positions(model, batch["learned_at"]):
        return _forward(model, batch).logits[0]


def _before_head(model: Any, batch: Batch) -> tuple[Tensor, Any]:
    """Hidden states (N, H) and the output layer that turns them into logits; or logits (N, V) and None.

    The latter where a model does something with its logits afterwards (soft caps, scaling) or where its output layer
    is not a plain one.
    """
    if not is_plain_head(model):
        return learned_logits(model, batch), None
    kept: list[Tensor] = []
    with _only_positions(model, batch["learned_at"], kept):
        _forward(model, batch)
    return kept[0][0], model.get_output_embeddings()


def _forward(model: Any, batch: Batch) -> Any:
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    if "layout" in batch:
        inputs["attention_mask"] = NO_MASK.to(batch["input_ids"].device)
    return model(**inputs, use_cache=False)


_INPUTS = ("input_ids", "attention_mask", "position_ids", "layout")


@contextmanager
def _only_positions(model: Any, positions: Tensor, kept: list[Tensor] | None = None) -> Iterator[None]:
    """Let the output layer see the hidden states (1, N, H) of these N flat positions instead of all (B, T, H).

    Args:
        kept: where they are put, and the output layer sees none.
    """
    own = get_ident()

    def select(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        if get_ident() != own:
            return None  # another part of the batch, which is computed at the same time and has positions of its own
        hidden = arguments[0].flatten(0, 1).index_select(0, positions).unsqueeze(0)
        if kept is None:
            return (hidden,)
        kept.append(hidden)
        return (hidden[:, :0],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
