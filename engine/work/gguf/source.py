"""Reads a model's weights from its safetensors files, a few rows at a time; it knows nothing of GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.work.shards import check_sound

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8")}


@dataclass(frozen=True)
class Weight:
    """One tensor in a file. ``rows(which)`` reads a slice, or the rows of these numbers, as float32."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[slice | np.ndarray], np.ndarray]


def read_weights(folder: Path) -> dict[str, Weight]:
    """Every tensor of a model by name: first file first, and by name within a file. No weight is read yet.

    Raises:
        UserError: there are no safetensors files, one is damaged or missing, or holds a type that is not a float.
    """
    from gguf.utility import SafetensorsLocal

    weights: dict[str, Weight] = {}
    for path in weight_files(folder):
        check_sound(path)  # gguf's own reader would believe any length that a header names
        try:
            tensors = SafetensorsLocal(path).tensors
            for name, tensor in tensors.items():
                weights[name] = _weight(name, tensor, path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError("gguf.weights_unreadable", path=path, detail=str(error)) from error
    return weights


def weight_files(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that ``model.safetensors.index.json`` names.

    Raises:
        UserError: there are none, or a shard is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError("gguf.no_safetensors", path=folder)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError("gguf.weights_unreadable", path=index, detail=repr(error)) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError("gguf.shards_missing", path=folder, files=", ".join(missing))
    return [folder / name for name in names]


def float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Raw values of a safetensors dtype as float32. bfloat16 is the upper half of a float32; numpy does not know it."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _weight(name: str, tensor, path: Path) -> Weight:
    if tensor.dtype not in DTYPES:
        raise UserError("gguf.dtype_unknown", tensor=name, dtype=tensor.dtype, path=path)
    start, size = tensor.data_range.offset, tensor.data_range.size
    if start + size > path.stat().st_size:
        raise ValueError(f"cut off: {name} would end at byte {start + size}")

    def rows(which: slice | np.ndarray) -> np.ndarray:
        raw = tensor.mmap_bytes().view(DTYPES[tensor.dtype]).reshape(tensor.shape)
        return float32(raw[which], tensor.dtype)

    return Weight(name, tensor.shape, tensor.dtype, rows)
