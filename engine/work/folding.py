"""The arithmetic of merging: what one adapter makes of one weight, in float32. Files and names are not known here."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    """Fold a LoRA update into the weight it was trained beside.

    Returns ``W + scaling * B @ A``, computed in float32: in bfloat16 (8 significant bits) a small update would be
    rounded away. The inputs are not changed.

    Args:
        weight: frozen base weight W, shape (out, in), any floating dtype.
        lora_a: down-projection A, shape (r, in).
        lora_b: up-projection B, shape (out, r).
        scaling: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; no unit.

    Returns:
        Merged weight, shape (out, in), dtype and device of ``weight``.

    Raises:
        ValueError: the three shapes do not chain; the message shows all three.

    Source: Hu et al. 2021, arXiv 2106.09685, section 4.1. Checked against peft in tests/conformance/test_merge.py.
    """
    if not chain(weight.shape, lora_a.shape, lora_b.shape):
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in (("W", weight), ("A", lora_a), ("B", lora_b)))
        raise ValueError(f"W (out, in), A (r, in) and B (out, r) do not fit together: {shapes}")
    lora_a, lora_b = (x.to(weight.device, torch.float32) for x in (lora_a, lora_b))
    return torch.addmm(weight.float(), lora_b, lora_a, alpha=scaling).to(weight.dtype)


def merged_weight_dora(
    weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, magnitude: Tensor, dim: int
) -> Tensor:
    """Fold a DoRA update: the direction of ``W + scaling * B @ A`` with a trained length.

    Args:
        weight, lora_a, lora_b, scaling: as for :func:`merged_weight`.
        magnitude: trained length of each row (``dim`` 1, a linear layer) or column (``dim`` 0, an embedding).
        dim: along which the length is measured.

    Source: Liu et al. 2024, arXiv 2402.09353, equation 5. Checked against peft in tests/conformance/test_merge.py.
    """
    direction = merged_weight(weight.float(), lora_a, lora_b, scaling)
    length = torch.linalg.norm(direction, dim=dim, keepdim=True)
    return (direction * (magnitude.float().reshape(length.shape) / length)).to(weight.dtype)


def merged_weight_oft(weight: Tensor, angles: Tensor, terms: int | None) -> Tensor:
    """Fold an OFT update: the inputs of a linear layer are turned block by block before they reach the weight.

    Returns ``W @ Rᵀ`` with the block-diagonal R. A block is made of the skew-symmetric Q whose upper triangle is a row
    of ``angles``: exactly by Cayley, R = (I - Q)(I + Q)⁻¹ with the sign that peft uses, or, as peft does unless told
    otherwise, by the first terms of its Neumann series, I + 2Q + 2Q² + … + Qⁿ⁻¹.

    Args:
        weight: frozen base weight W, shape (out, in), any floating dtype.
        angles: upper triangles of Q, row by row; shape (blocks, side · (side - 1) / 2), where blocks · side = in.
        terms: of the series; None: exactly.

    Source: Qiu et al. 2023, arXiv 2306.07280; peft 0.21 ``OFTRotationModule``. Checked against peft in
    tests/conformance/test_merge.py.
    """
    blocks, side = angles.shape[0], block_side(angles.shape)
    if blocks * side != weight.shape[1]:
        raise ValueError(f"W {tuple(weight.shape)} and {blocks} blocks of side {side} do not fit together")
    skew = torch.zeros(blocks, side, side, device=weight.device)
    rows, columns = torch.triu_indices(side, side, 1)
    skew[:, rows, columns] = angles.to(weight.device, torch.float32)
    skew = skew - skew.mT
    one = torch.eye(side, device=weight.device).expand_as(skew)
    if terms is None:
        turn = torch.linalg.solve(one + skew, one - skew, left=False)
    else:
        turn, power = one.clone(), one
        terms = 4 if terms == 3 else terms  # peft's series goes to the third power for both
        for number in range(1, terms):
            power = power @ skew
            turn = turn + (2 if number < terms - 1 or terms == 2 else 1) * power
    parts = weight.float().reshape(weight.shape[0], blocks, side)
    return torch.einsum("obs,bts->obt", parts, turn).reshape(weight.shape).to(weight.dtype)


def block_side(shape: tuple[int, ...]) -> int:
    """The side of OFT's blocks, from the shape (blocks, side · (side - 1) / 2) of their angles."""
    return (1 + math.isqrt(1 + 8 * shape[1])) // 2


def chain(weight: tuple[int, ...], lora_a: tuple[int, ...], lora_b: tuple[int, ...]) -> bool:
    return (
        len(weight) == len(lora_a) == len(lora_b) == 2
        and tuple(weight) == (lora_b[0], lora_a[1])
        and lora_a[0] == lora_b[1]
    )
