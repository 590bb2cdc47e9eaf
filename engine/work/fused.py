"""A decoder's norms and gated activations as single operations of autograd, with the fewest passes over memory.

transformers writes them as chains of elementwise operations, each of which reads and writes a whole tensor and keeps
it for the backward pass. On a CPU that takes as long as a good part of the matrix products. Modules are replaced only
if one of their kind gives, and passes back, the same numbers on a sample.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 128
"""Positions at a time: what they hold fits into a core's cache between two operations."""


def fuse(model: torch.nn.Module) -> int:
    """Replace what can be replaced without changing a result. Returns how many modules that were."""
    fused = 0
    is_same: dict[Any, bool] = {}
    for module in model.modules():
        forward = _norm if _looks_like_norm(module) else _gated if _looks_like_gated(module) else None
        if forward is None:
            continue
        kind = _kind(module)
        if kind not in is_same:
            is_same[kind] = _gives_the_same(module, forward)
        if is_same[kind]:
            module.forward = MethodType(forward, module)
            fused += 1
    return fused


def _looks_like_norm(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and _epsilon(module) is not None and len(_weights(module)) == 1


def _looks_like_gated(module: torch.nn.Module) -> bool:
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return all(hasattr(module, part) for part in parts) and set(dict(module.named_children())) == set(parts)


def _kind(module: torch.nn.Module) -> Any:
    """What modules that compute in the same way have in common: classes, settings, and the form of their weights."""
    parts = tuple(
        (name, type(part), tuple((key, value) for key, value in vars(part).items() if isinstance(value, _SETTING)))
        for name, part in module.named_modules()
    )
    forms = (
        (name, each.shape, each.dtype, each.device, each.requires_grad) for name, each in module.named_parameters()
    )
    return parts, tuple(forms)


_SETTING = (bool, int, float, str, FunctionType, BuiltinFunctionType)


def _weights(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return list(module.parameters())


def _epsilon(module: torch.nn.Module) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _norm(module: torch.nn.Module, x: Tensor) -> Tensor:
    (weight,) = _weights(module)
    if weight.requires_grad or x.dtype != weight.dtype:
        return type(module).forward(module, x)
    return _RmsNorm.apply(x, weight, _epsilon(module))


def _gated(module: Any, x: Tensor) -> Tensor:
    return module.down_proj(_GatedSilu.apply(module.gate_proj(x), module.up_proj(x)))


def _gives_the_same(module: torch.nn.Module, forward: Any) -> bool:
    """Whether ``forward`` gives a module's own output and gradient on a few random inputs."""
    weight = next(each for each in module.parameters() if each.is_floating_point())  # what is quantized is not
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else weight.numel()
    is_exact = all(each.dtype == torch.float32 for each in module.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=generator).to(weight.device, weight.dtype).requires_grad_()
    found = []
    for run in (type(module).forward, forward):
        out = run(module, x)
        found.append((out, *torch.autograd.grad(out, x, torch.linspace(-1, 1, out.numel()).view_as(out).to(out))))
    if not all(each.isfinite().all() for each in found[0]):
        return False  # broken weights are not noticed here
    tolerance = 1e-5 if is_exact else 2e-2
    return all(
        torch.allclose(own, ours, rtol=tolerance, atol=tolerance * own.abs().max().item())
        for own, ours in zip(*found, strict=True)
    )


class _RmsNorm(torch.autograd.Function):
    """x / √(mean(x²) + ε) · w over the last dimension; w is frozen. In float32, whatever the format of x and w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(flat)
        scale = flat.new_empty(len(flat), 1, dtype=torch.float32)
        for rows, result, factor in zip(flat.split(ROWS), out.split(ROWS), scale.split(ROWS), strict=True):
            exact = rows.float()
            torch.linalg.vector_norm(exact, dim=-1, keepdim=True, out=factor)
            factor.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
            torch.mul(exact, factor, out=result).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return out.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        width, is_exact = x.shape[-1], x.dtype == torch.float32
        flat, upstream = x.reshape(-1, width), gradient.reshape(-1, width)
        out = torch.empty_like(flat)
        parts = zip(flat.split(ROWS), upstream.split(ROWS), out.split(ROWS), scale.split(ROWS), strict=True)
        for rows, given, result, factor in parts:
            exact = rows.float()
            wide = torch.mul(given, weight, out=result) if is_exact else given.float().mul_(weight)
            along = (wide * exact).sum(-1, keepdim=True).mul_(factor.pow(3)).div_(width)
            wide.mul_(factor).addcmul_(exact, along, value=-1)
            if not is_exact:
                result.copy_(wide)
        return out.view_as(x), None, None


class _GatedSilu(torch.autograd.Function):
    """silu(gate) · up; the activation is computed again for the gradient, and not kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        width = gate.shape[-1]
        parts = (each.reshape(-1, width).split(ROWS) for each in (gate, up, out))
        for opened, rows, result in zip(*parts, strict=True):
            torch.mul(functional.silu(opened), rows, out=result)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        for_gate, for_up, width = torch.empty_like(gate), torch.empty_like(up), gate.shape[-1]
        parts = (each.reshape(-1, width).split(ROWS) for each in (gate, up, gradient, for_gate, for_up))
        for opened, rows, given, gate_result, up_result in zip(*parts, strict=True):
            torch.mul(given, functional.silu(opened), out=up_result)
            gate_result.copy_(torch.ops.aten.silu_backward(given * rows, opened))
        return for_gate, for_up
