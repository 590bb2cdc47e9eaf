"""What files hold, as a key of 64 hexadecimal digits: data files whole, the weights of a model by samples of them."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

BLOCK_BYTES = 2**20
WHOLE_BYTES = 64 * BLOCK_BYTES
"""Larger files of a model are read at so many places only; training changes nearly every weight, so it shows there."""
SAMPLES = 16
OF_A_MODEL = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "adapter_model.bin", "*.gguf", "config.json",
    "adapter_config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "chat_template*", "*.tiktoken", "*.py",
)  # fmt: skip
"""Files that decide what a model says; logs, cards and the like beside them do not."""


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file; one that has not changed since is not read again."""
    stat = path.stat()
    return _file_digest(path.absolute(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size_bytes: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def data_facts(files: list[Path], is_read: bool = True) -> dict[str, Any]:
    """Number, bytes and digest of a dataset's files; their names and places do not count, their order does.

    Args:
        is_read: False, where reading them whole would take long (rows that are streamed): then there is no digest.
    """
    sizes = [path.stat().st_size for path in files]
    digest = hashlib.sha256("\n".join(map(file_digest, files)).encode()).hexdigest() if is_read else None
    if digest and len(files) == 1:
        digest = file_digest(files[0])  # what sha256sum says of it too
    return {"files": len(files), "bytes": sum(sizes), "sha256": digest}


def model_facts(folder: Path) -> dict[str, Any]:
    """Bytes and digest of the files in a folder that make up a model, an adapter, or a tokenizer."""
    digest, size_bytes = hashlib.sha256(), 0
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in OF_A_MODEL):
            size = path.stat().st_size
            size_bytes += size
            digest.update(f"{path.name} {size} {_sampled(path, size)}\n".encode())
    return {"bytes": size_bytes, "sha256": digest.hexdigest()}


def _sampled(path: Path, size_bytes: int) -> str:
    if size_bytes <= WHOLE_BYTES:
        return file_digest(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek((size_bytes - BLOCK_BYTES) * number // (SAMPLES - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
