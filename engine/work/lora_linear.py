"""A linear layer with LoRA beside it as one operation of autograd.

peft's own does the same in eight, each with a tensor of its own; here the low-rank product is added to the base's
in place, in both directions, and only the layer's input and its r-wide projection are kept for the backward pass.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn import functional


def speed_up(model: torch.nn.Module) -> int:
    """Let every plain LoRA layer of a model compute as one operation; the others stay as they are.

    Returns:
        How many layers this changed.
    """
    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: Linear) -> bool:
    """One adapter, without dropout or variants such as DoRA, beside an unquantized frozen weight."""
    names, base = list(layer.lora_A), layer.base_layer
    return (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and not hasattr(base.weight, "ds_id")  # DeepSpeed ZeRO-3 fetches a weight when its own module is called
        and not (base.bias is not None and base.bias.requires_grad)
        and names == layer.active_adapters
        and len(names) == 1
        and names[0] not in layer.lora_variant
        and type(layer.lora_dropout[names[0]]) is torch.nn.Identity
        and layer.lora_B[names[0]].bias is None
    )


def _forward(layer: Linear, x: Tensor, *given: Any, **named: Any) -> Tensor:
    if layer.disable_adapters or layer.merged or given or named:
        return Linear.forward(layer, x, *given, **named)
    (name,) = layer.active_adapters
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
    bias = None if base.bias is None else base.bias.to(dtype)
    out = _LoraLinear.apply(
        x.to(dtype).flatten(0, -2), base.weight.to(dtype), bias, a.to(dtype), b.to(dtype), layer.scaling[name]
    )
    return out.view(*x.shape[:-1], -1)


class _LoraLinear(torch.autograd.Function):
    """x Wᵀ + bias + scaling · (x Aᵀ) Bᵀ with x (T, in), W (out, in), A (r, in), B (out, r); W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        narrow = a @ x.t()  # (r, T): what is thin lies across; BLAS takes up to seven times as long the other way round
        out = functional.linear(x, weight, bias)
        out.addmm_(narrow.t(), b.t(), alpha=scaling)
        ctx.save_for_backward(x, narrow, weight, a, b)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow, weight, a, b = ctx.saved_tensors
        for_narrow = (b.t() @ gradient.t()).mul_(ctx.scaling)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = gradient @ weight
            for_x.addmm_(for_narrow.t(), a)
        for_b = (narrow @ gradient).t().mul(ctx.scaling)
        return for_x, None, None, for_narrow @ x, for_b.contiguous(), None
