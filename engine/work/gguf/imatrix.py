"""Reads an importance matrix as llama.cpp's llama-imatrix writes it: how much each column of a weight matters."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from engine.errors import UserError


def read_imatrix(path: Path) -> dict[str, np.ndarray]:
    """By name of a tensor in the .gguf file: the mean square of what comes in at each column, float32.

    A tensor of several experts has theirs one behind the other.

    Raises:
        UserError: it is missing, or neither of the two formats.
    """
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        found = _from_gguf(path) if is_gguf else _from_dat(path.read_bytes())
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise UserError("gguf.imatrix_unreadable", path=path, detail=str(error)) from error
    if not found or not all(np.isfinite(values).all() for values in found.values()):
        raise UserError("gguf.imatrix_unreadable", path=path, detail="it holds no finite numbers")
    return found


def check_imatrix(importance: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raises: UserError, if it was made for another model: none of its tensors is here, or one has other columns."""
    known = {name: values for name, values in importance.items() if name in shapes}
    wrong = next((name for name, values in known.items() if values.size % shapes[name][-1]), None)
    if not known or wrong:
        raise UserError("gguf.imatrix_of_another_model", path=path, tensor=wrong or next(iter(importance)))


def _from_gguf(path: Path) -> dict[str, np.ndarray]:
    """Sums of squares and how many they are, for each tensor; a column that was never reached counts as 1."""
    from gguf import GGUFReader

    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    found = {}
    for name, sums in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        base = name.removesuffix(".in_sum2")
        counts = np.asarray(tensors[f"{base}.counts"], np.float32).reshape(-1, 1)
        sums = np.asarray(sums, np.float32).reshape(len(counts), -1)
        found[base] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32).reshape(-1)
    return found


def _from_dat(content: bytes) -> dict[str, np.ndarray]:
    """The older format: for each tensor its name, a number of calls, and as many values times that number."""
    (count,) = struct.unpack_from("<i", content)
    at, found = 4, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<i", content, at)
        if not 0 < length < 1000:
            raise ValueError(f"no importance matrix: a name of {length} bytes")
        name = content[at + 4 : at + 4 + length].decode("utf-8")
        calls, size = struct.unpack_from("<ii", content, at + 4 + length)
        at += 12 + length
        if size < 1 or at + 4 * size > len(content):
            raise ValueError(f"cut off: {name}")
        found[name] = np.frombuffer(content, "<f4", size, at) / max(calls, 1)
        at += 4 * size
    return found
