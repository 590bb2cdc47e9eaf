"""Proves a written merge against what it was made from, tensor by tensor; some of a tensor is in memory at a time.

It reads the folder as a stranger would and shares no arithmetic with ``merge.py``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from engine.errors import UserError
from engine.runs.record import Recorder
from engine.work.merge import Merge
from engine.work.shards import Stored, blocks, model_tensors, some


def verify_tensors(merge: Merge, folder: Path, recorder: Recorder) -> tuple[int, int]:
    """Compare every tensor in ``folder`` with the base model.

    Returns:
        How many tensors the adapters changed, and how many equal the base bit for bit (after a change of dtype).

    Raises:
        UserError: a tensor is missing, one too many, not finite, or differs although no adapter touches it.
    """
    written = model_tensors(folder)
    faults = [f"{name} is missing" for name in merge.sources if name not in written]
    faults += [f"{name} is not wanted" for name in written if name not in merge.sources]
    same, rounded = 0, []
    for done, name in enumerate(merge.sources, start=1):
        recorder.check_stop()
        recorder.phase("verifying", done, len(merge.sources), "tensors")
        if name not in written:
            continue
        is_same, is_sound = _compared(written[name], merge.base[merge.sources[name]])
        if not is_sound:
            faults.append(f"{name} is not finite in {_spelled(written[name].dtype)}")
        same += is_same
        if merge.is_touched(name) and is_same:
            rounded.append(name)
        elif not merge.is_touched(name) and not is_same:
            faults.append(f"{name} differs from the base model")
    if faults:
        raise UserError("merge.verify_failed", detail=some(faults))
    if rounded:
        recorder.warn("merge.not_changed", count=len(rounded), names=some(rounded, 3))
    return len(merge.sources) - same, same


def _compared(written: Stored, base: Stored) -> tuple[bool, bool]:
    """Whether a tensor equals the base's bit for bit (after a change of dtype), and is finite where that is."""
    is_same, is_finite, was_finite = written.shape == base.shape, True, True
    if is_same:
        for one, other in zip(blocks(written), blocks(base), strict=True):
            is_same = is_same and _same_bits(one, other.to(one.dtype))
            is_finite = is_finite and _is_finite(one)
            was_finite = was_finite and _is_finite(other)
    else:
        is_finite, was_finite = (all(map(_is_finite, blocks(each))) for each in (written, base))
    return is_same, is_finite or not was_finite


def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass, no copy: a single NaN or infinity makes the sum NaN or infinite."""
    return math.isfinite(tensor.sum(dtype=torch.float32)) if tensor.is_floating_point() else True


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bit for bit, so that NaN equals itself and 0.0 is not -0.0."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits))


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
