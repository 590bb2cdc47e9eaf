"""Tensors of a model folder, read one at a time and written file by file; what they mean is not known here.

The safetensors format: eight bytes with the header's length, a JSON header with dtype, shape and place of each tensor,
then the bytes of all tensors without a gap.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GB = 1_000_000_000
BLOCK = 4_000_000
"""Numbers that are in memory at once where a tensor is only copied or compared."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies, and its shape and dtype; its numbers are read by :func:`load`."""

    file: Path
    offset: int  # bytes from the file's beginning
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.count * self.dtype.itemsize


def check_sound(file: Path) -> None:
    """The library's own check: a sound header, no gap, no byte missing, nothing twice. Raises: UserError."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError("merge.file_broken", path=file, detail=error) from error


def stored_tensors(file: Path) -> dict[str, Stored]:
    """All tensors of one file, in the order in which they lie there.

    Raises:
        UserError: the file is cut off or holds a dtype that is no plain number.
    """
    check_sound(file)
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise UserError("merge.dtype_unknown", path=file, tensor=name, dtype=entry["dtype"])
        offset = 8 + length + entry["data_offsets"][0]
        found[name] = Stored(file, offset, tuple(entry["shape"]), DTYPES[entry["dtype"]])
    return found


def model_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a model folder: of its one file, or of those that its index names.

    Raises:
        UserError: no safetensors, some of them are missing, or the index is none.
    """
    if (folder / SINGLE).is_file():
        return stored_tensors(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise UserError("merge.base_no_safetensors", path=folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(index.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError("merge.file_broken", path=folder / INDEX, detail=repr(error)) from error
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError("merge.base_incomplete", path=folder, missing=", ".join(missing))
    found: dict[str, Stored] = {}
    for name in files:
        found.update(stored_tensors(folder / name))
    lost = sorted(set(index) - set(found))
    if lost:
        raise UserError("merge.base_incomplete", path=folder, missing=some(lost))
    return found


def load(stored: Stored) -> torch.Tensor:
    """The numbers of one tensor: read, not mapped, because all that is shown of a mapped file stays in memory."""
    return _read(stored, 0, stored.count).reshape(stored.shape)


def load_rows(stored: Stored, begin: int, end: int) -> torch.Tensor:
    """Some rows of a tensor, by its first dimension: shape (end - begin, …)."""
    row = math.prod(stored.shape[1:])
    return _read(stored, begin * row, end * row).reshape(end - begin, *stored.shape[1:])


def blocks(stored: Stored) -> Iterator[torch.Tensor]:
    """The numbers of one tensor in their order, in flat pieces of at most ``BLOCK`` numbers."""
    for begin in range(0, stored.count, BLOCK):
        yield _read(stored, begin, min(begin + BLOCK, stored.count))


def _read(stored: Stored, begin: int, end: int) -> torch.Tensor:
    """The numbers from ``begin`` to before ``end``, as they lie in the file; flat."""
    data = torch.empty((end - begin) * stored.dtype.itemsize, dtype=torch.uint8)
    with stored.file.open("rb", buffering=0) as content:
        content.seek(stored.offset + begin * stored.dtype.itemsize)
        view = memoryview(data.numpy())
        while view and (count := content.readinto(view)):
            view = view[count:]
    if view:
        raise UserError("merge.file_broken", path=stored.file, detail="unexpected end of file")
    return data.view(stored.dtype)


def in_shards(sizes: dict[str, int], limit_bytes: float) -> list[list[str]]:
    """Names in their order, cut into files of at most ``limit_bytes`` each; a larger tensor has one for itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def shard_names(count: int) -> list[str]:
    """File names as transformers spells them."""
    return [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def write_model(
    folder: Path,
    contents: dict[str, tuple[tuple[int, ...], torch.dtype]],
    limit_bytes: float,
    tensor_of: Callable[[str], torch.Tensor | Iterable[torch.Tensor]],
) -> Iterator[str]:
    """Write a model's weights, one tensor in memory at a time, with an index when there are several files.

    Args:
        folder: exists.
        contents: shape and dtype of every tensor, in the order in which they are asked for and written.
        limit_bytes: largest size of one file.
        tensor_of: gives a tensor of just that shape and dtype, or its numbers in flat pieces of that dtype.

    Yields:
        The name of each tensor, once it is written.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in contents.items()}
    shards = in_shards(sizes, limit_bytes)
    files = shard_names(len(shards))
    for file, names in zip(files, shards, strict=True):
        # Wide numbers first, as the safetensors library does: so each tensor begins at a multiple of its width.
        names.sort(key=lambda name: -contents[name][1].itemsize)
        with (folder / file).open("wb") as out:
            out.write(_header({name: contents[name] for name in names}, sizes))
            for name in names:
                _write(out, name, tensor_of(name), contents[name])
                yield name
            out.flush()
            os.fsync(out.fileno())  # some file systems tell only now that they are full
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        metadata = {"total_size": sum(sizes.values())}
        text = json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _write(
    out: BinaryIO, name: str, given: torch.Tensor | Iterable[torch.Tensor], planned: tuple[tuple[int, ...], torch.dtype]
) -> None:
    if isinstance(given, torch.Tensor) and tuple(given.shape) != planned[0]:
        raise ValueError(f"{name}: planned {planned}, got {tuple(given.shape)} {given.dtype}")
    written = 0
    for piece in [given] if isinstance(given, torch.Tensor) else given:
        if piece.dtype != planned[1]:
            raise ValueError(f"{name}: planned {planned}, got {piece.dtype}")
        written += out.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if written != math.prod(planned[0]) * planned[1].itemsize:
        raise ValueError(f"{name}: planned {planned}, got {written} bytes")


def some(names: list[str], limit: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" … (+{rest})" if rest > 0 else "")


def _header(contents: dict[str, tuple[tuple[int, ...], torch.dtype]], sizes: dict[str, int]) -> bytes:
    places: dict[str, object] = defaultdict(dict)
    places["__metadata__"] = {"format": "pt"}
    begin = 0
    for name, (shape, dtype) in contents.items():
        end = begin + sizes[name]
        places[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(places, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
