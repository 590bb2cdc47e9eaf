"""The output layer and the softmax over the vocabulary, a piece of the positions at a time.

Logits of a step are by far its largest tensors (positions × vocabulary). Here only a piece of them exists at any time,
and it becomes its own gradient in place. Equal to ``functional.cross_entropy(linear(hidden))`` up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.catalog.shape import AFTER_HEAD

PIECE_BYTES = 48_000_000
"""Of logits in float32 at a time."""


def is_plain_head(model: Any) -> bool:
    """Whether a model's logits are what its output layer, a plain linear one, gives, and nothing else."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    changed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in AFTER_HEAD)
    is_whole = type(getattr(head, "weight", None)) is torch.nn.Parameter and not hasattr(head.weight, "ds_id")
    return type(head) is torch.nn.Linear and is_whole and not changed


def summed_nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods of ``targets``; its gradient is computed at once with it.

    Args:
        hidden: (N, H); weight: (V, H); bias: (V,) or None; targets: (N,).

    Returns:
        A scalar in float32; nats.
    """
    return _SummedNll.apply(*_as_computed(hidden, weight, bias), targets)


def token_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Log-probability (natural) of each target, (N,) in float32; logits are computed again for the gradient."""
    return _TokenLogps.apply(*_as_computed(hidden, weight, bias), targets)


def _as_computed(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """In the format of the matrix product: autocast's where that is on."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _pieces(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(16, PIECE_BYTES // (4 * len(weight)))
    return [slice(at, at + size) for at in range(0, len(hidden), size)]


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.log_softmax(functional.linear(hidden, weight, bias), dim=-1, dtype=torch.float32)


class _Gradients:
    """Collects what a piece adds to the gradients of hidden, weight and bias, where they are wanted."""

    def __init__(self, wanted: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted[1] else None
        self.bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if wanted[2] else None
        self._of = hidden, weight

    def add(self, piece: slice, logits: Tensor) -> None:
        """Args: logits: gradient of this piece's logits, float32."""
        hidden, weight = self._of
        if self.bias is not None:
            self.bias += logits.sum(0)
        logits = logits.to(weight.dtype)
        if self.hidden is not None:
            torch.mm(logits, weight, out=self.hidden[piece])
        if self.weight is not None:
            self.weight.addmm_(logits.t().float(), hidden[piece].float())

    def scaled(self, factor: Tensor, *like: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(
            None if found is None else (found * factor).to(each.dtype)
            for found, each in zip((self.hidden, self.weight, self.bias), like, strict=True)
        )


class _SummedNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradients = _Gradients(ctx.needs_input_grad[:3], hidden, weight, bias)
        for piece in _pieces(hidden, weight):
            logits, wanted = _log_softmax(hidden[piece], weight, bias), targets[piece].unsqueeze(1)
            total -= logits.gather(1, wanted).sum()
            if any(ctx.needs_input_grad[:3]):
                logits.exp_()
                logits.scatter_add_(1, wanted, logits.new_full(wanted.shape, -1.0))
                gradients.add(piece, logits)
        ctx.gradients, ctx.like = gradients, (hidden, weight, bias)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.gradients.scaled(upstream, *ctx.like), None)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        found = [
            _log_softmax(hidden[piece], weight, bias).gather(1, targets[piece].unsqueeze(1)).squeeze(1)
            for piece in _pieces(hidden, weight)
        ]
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        gradients = _Gradients(ctx.needs_input_grad[:3], hidden, weight, bias)
        for piece in _pieces(hidden, weight):
            wanted, factor = targets[piece].unsqueeze(1), upstream[piece].unsqueeze(1)
            logits = _log_softmax(hidden[piece], weight, bias).exp_().mul_(-factor)
            logits.scatter_add_(1, wanted, factor)
            gradients.add(piece, logits)
        return (*gradients.scaled(upstream.new_ones(()), hidden, weight, bias), None)
