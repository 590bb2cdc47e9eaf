"""Proves that a .gguf file holds the tensors and cuts text as the model it was made from, before it gets its name.

Whether it then says the same is the question of ``parity.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from engine.errors import UserError
from engine.work.gguf.convert import encode
from engine.work.gguf.header import stored_tensors
from engine.work.gguf.tensors import Planned

WHOLE_TYPES = (Type.F32, Type.F16, Type.BF16)
ROWS_COMPARED = 64

STEPS = {Type.Q8_0: 127, Type.Q5_1: 31, Type.Q5_0: 16, Type.Q4_1: 15, Type.Q4_0: 8}
"""Into how many steps a block's largest value (of q*_1: the distance from its smallest to its largest) is divided."""

LOST = ((4, 0.3), (3, 0.6), (2.5, 0.8), (0, 1.2))
"""From how many bits a weight llama.cpp's rounding loses at most which share of a matrix (of its root mean square). Of
random numbers q4_k loses 0.07, q2_k 0.3; an importance matrix lets more be lost where it does not matter."""


def verify_tensors(path: Path, planned: list[Planned], outtype: str | None, recorder) -> dict[str, Any]:
    """Read the file back and compare it with its source.

    Args:
        outtype: every value of f32, f16 and bf16 must be the source's, rounded once, and the first rows of a quantised
            tensor must lie within its step. None after llama.cpp has chosen a type for each tensor: then the first
            rows must be the source's but for what so few bits lose.

    Returns:
        ``tensors``: how many there are; ``values_equal``: in how many every value was compared.

    Raises:
        UserError: anything differs.
    """
    try:
        found = stored_tensors(path)
    except ValueError as error:
        raise UserError("gguf.verify_failed", detail=str(error)) from error
    wanted = {tensor.name for tensor in planned}
    if set(found) != wanted:
        fail(f"tensors missing or left over: {', '.join(sorted(set(found) ^ wanted)[:8])}")
    compared = 0
    for number, tensor in enumerate(planned):
        recorder.check_stop()
        recorder.phase("verifying", number, len(planned), "tensors")
        stored = found[tensor.name]
        if stored.shape != tensor.shape:
            fail(f"{tensor.name} has the shape {stored.shape} instead of {tensor.shape}")
        if outtype is None:
            _compare_roughly(tensor, stored.type, stored.data)
            continue
        wanted_type = tensor.stored_as(outtype)
        if stored.type != wanted_type:
            fail(f"{tensor.name} is stored as {stored.type.name} instead of {wanted_type.name}")
        if wanted_type in WHOLE_TYPES:
            _compare_values(tensor, wanted_type, stored.data)
            compared += 1
        else:
            _compare_first_rows(tensor, wanted_type, stored.data)
    recorder.phase("verifying", len(planned), len(planned), "tensors")
    return {"tensors": len(planned), "values_equal": compared}


def _compare_roughly(tensor: Planned, type: Type, stored: np.ndarray) -> None:
    """What is lost, as a share of what is there; rows in a wrong order lose 1.4, zeros in their place 1."""
    wanted = _first_rows(tensor)
    found = gguf.quants.dequantize(stored.reshape(tensor.shape[0], -1)[: len(wanted)], type).reshape(wanted.shape)
    block, block_bytes = gguf.GGML_QUANT_SIZES[type]
    allowed = next(share for bits, share in LOST if 8 * block_bytes / block >= bits)
    if np.square(found - wanted).sum() > allowed**2 * np.square(wanted).sum() + 1e-12:
        fail(f"{tensor.name} is further from the model than {type.name} rounds")


def _first_rows(tensor: Planned) -> np.ndarray:
    return tensor.rows(0, 1 if len(tensor.shape) > 2 else min(ROWS_COMPARED, tensor.shape[0]))


def compare_tokens(cut: list[list[int]], tokenizer, texts: list[str], recorder) -> None:
    """Raises: UserError, if llama.cpp cuts a prompt otherwise than the model's own tokenizer does.

    Args:
        cut: llama.cpp's tokens of each text.
        texts: the prompts, and at last an odd text, of which a difference is only told.
    """
    wanted_of = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for text, found, wanted in zip(texts[:-1], cut, wanted_of, strict=False):
        if found != wanted:
            pairs = enumerate(zip(found, wanted, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
            raise UserError(
                "gguf.tokens_differ", text=text[:80], position=at, llama=found[at : at + 5], own=wanted[at : at + 5]
            )
    if cut[-1] != wanted_of[-1]:
        recorder.warn("gguf.odd_text_differs")


def fail(detail: str) -> None:
    raise UserError("gguf.verify_failed", detail=detail)


def _compare_values(tensor: Planned, type: Type, stored: np.ndarray) -> None:
    at = 0
    for chunk in tensor.chunks():
        wanted = encode(chunk, type, tensor.name)
        if not np.array_equal(stored[at : at + wanted.size], wanted):
            fail(f"{tensor.name} does not hold the values of the model")
        at += wanted.size
    if at != stored.size:
        fail(f"{tensor.name} has {stored.size} bytes instead of {at}")


def _compare_first_rows(tensor: Planned, type: Type, stored: np.ndarray) -> None:
    """A value is at most half a step from the source's; q4_0 and q5_0 may be a whole one off at the end of a block.

    A step is stored as a float16 beside its block.
    """
    wanted = _first_rows(tensor)
    found = gguf.quants.dequantize(stored.reshape(tensor.shape[0], -1)[: len(wanted)], type)
    block = gguf.GGML_QUANT_SIZES[type][0]
    wanted, found = wanted.reshape(-1, block), found.reshape(-1, block)
    largest = np.abs(wanted).max(-1)
    has_offset = type in (Type.Q5_1, Type.Q4_1)
    span = wanted.max(-1) - wanted.min(-1) if has_offset else largest
    steps_off = 1.0 if type in (Type.Q5_0, Type.Q4_0) else 0.5
    allowed = span * (steps_off / STEPS[type] + 2**-11) + has_offset * largest * 2**-9 + 2**-20
    if not (np.abs(found - wanted).max(-1) <= allowed).all():
        fail(f"{tensor.name} is further from the model than {type.name} rounds")
