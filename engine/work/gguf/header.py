"""Finds the tensors of a .gguf file by its header, at once: gguf's own reader takes a second for a vocabulary.

It shares no code with what wrote the file, and knows no more of the format than where things are.
Source: docs/gguf.md of ggml, version 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each plain type of a metadata value."""


@dataclass(frozen=True)
class Stored:
    """A tensor in the file: ``data`` are its bytes, mapped; ``shape`` as numpy has it, the slowest axis first."""

    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    data: np.ndarray


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of the file by name.

    Raises:
        ValueError: it is not a whole .gguf file of version 3.
    """
    data = np.memmap(path, np.uint8, "r")
    try:
        return _tensors(memoryview(data), data)
    except (struct.error, KeyError, IndexError) as error:
        raise ValueError(f"not a whole .gguf file: {error}") from error


def _tensors(view: memoryview, data: np.ndarray) -> dict[str, Stored]:
    magic, version, tensor_count, value_count = struct.unpack_from("<4sIQQ", view)
    if magic != b"GGUF" or version != 3:
        raise ValueError(f"starts with {magic!r}, version {version}")
    at, alignment = 24, 32
    for _ in range(value_count):
        key, at = _string(view, at)
        (kind,) = struct.unpack_from("<I", view, at)
        if key == "general.alignment":
            (alignment,) = struct.unpack_from("<I", view, at + 4)
        at = _after_value(view, at + 4, kind)
    described = []
    for _ in range(tensor_count):
        name, at = _string(view, at)
        (axes,) = struct.unpack_from("<I", view, at)
        *shape, kind, offset = struct.unpack_from(f"<{axes}QIQ", view, at + 4)
        at += 4 + 8 * axes + 12
        described.append((name, tuple(reversed(shape)), gguf.GGMLQuantizationType(kind), offset))
    start = -(-at // alignment) * alignment
    found = {}
    for name, shape, kind, offset in described:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        first = start + offset
        last = first + int(np.prod(shape, dtype=np.int64)) // block * block_bytes
        if last > len(data):
            raise ValueError(f"cut off: {name} would end at byte {last} of {len(data)}")
        found[name] = Stored(shape, kind, data[first:last])
    return found


def _string(view: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", view, at)
    return bytes(view[at + 8 : at + 8 + length]).decode("utf-8", "replace"), at + 8 + length


def _after_value(view: memoryview, at: int, kind: int) -> int:
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", view, at)[0]
    if kind != ARRAY:
        return at + SIZES[kind]
    inner, count = struct.unpack_from("<IQ", view, at)
    at += 12
    if inner in SIZES:
        return at + SIZES[inner] * count
    for _ in range(count):
        at = _after_value(view, at, inner)
    return at
