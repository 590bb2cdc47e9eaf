"""Attention within each sequence of a laid-out micro-batch: no work for padding, none across sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.work.packed import Layout

NAME = "sdpa_by_sequence"
"""What transformers knows it by: ``model.config._attn_implementation``."""


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of every block over what its sequences have before it.

    Args:
        query: (1, heads, T, d); key, value: (1, key heads, T, d).
        layout: None: the batch is padded and is left to transformers' own function.

    Returns:
        (1, T, heads, d), as transformers expects it.

    Raises:
        NotImplementedError: the model changes the scores in a way that is not known here.
    """
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **given
        )
    if unknown := [name for name in _CHANGES_SCORES if given.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    keys, values = key.split(layout.lengths, dim=2), value.split(layout.lengths, dim=2)
    found = []
    for number, own in enumerate(query.split(layout.lengths, dim=2)):
        block, before = layout.blocks[number], layout.ancestors(number)
        is_plain = not before and (sliding_window is None or block.length <= sliding_window)
        found.append(
            functional.scaled_dot_product_attention(
                own,
                torch.cat([keys[each] for each in (*before, number)], dim=2) if before else keys[number],
                torch.cat([values[each] for each in (*before, number)], dim=2) if before else values[number],
                attn_mask=None if is_plain else _mask(block.before, block.length, sliding_window, own.device),
                is_causal=is_plain,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2), None


NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
"""Stands where a laid-out batch needs no mask: transformers makes none where it is given one of four dimensions."""

_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "cache")


def _mask(before: int, length: int, sliding_window: int | None, device: torch.device) -> Tensor:
    """(length, before + length), true where a token of the block may look."""
    looks = torch.arange(before, before + length, device=device).unsqueeze(1)
    at = torch.arange(before + length, device=device)
    allowed = at <= looks
    return allowed & (at > looks - sliding_window) if sliding_window else allowed


def register() -> None:
    """Make ``NAME`` known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # of padded batches; a laid-out one brings ``NO_MASK``
