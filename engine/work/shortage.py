"""Memory that ran out: whether an error says so, and how much was asked for, held and free."""

from __future__ import annotations

import re
import resource
import sys
from typing import Any

import psutil

from engine.catalog.devices import cpu, memory_text

_SAYS_SO = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate",
            "std::bad_alloc", "cublas_status_alloc_failed")  # fmt: skip
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_ASKED = re.compile(r"(?:allocate:?|allocate more than)\s+(\d+(?:\.\d*)?)\s*(bytes|[KMGT]iB)", re.IGNORECASE)


def is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _SAYS_SO)


def shortage(error: BaseException) -> dict[str, Any]:
    """The sizes behind an error, as facts for a sentence: asked, free, total, used (texts), device and detail.

    Measured where the error was caught, while what it could not add to is still held. A size that nobody tells is "?".
    """
    text = f"{type(error).__name__}: {error}"
    match = _ASKED.search(text)
    asked = memory_text(float(match[1]) * _UNITS[match[2].lower()]) if match else "?"
    device, used, free, total = _of_gpu() if "cuda" in text.lower() else _of_cpu()
    detail = text if len(text) <= 500 else f"{text[:500]} …"
    return {
        "asked": asked, "used": memory_text(used), "free": memory_text(free), "total": memory_text(total),
        "device": device, "detail": detail,
    }  # fmt: skip


def _of_cpu() -> tuple[str, float, float, float]:
    """Main memory, within the limits of a container and of this process."""
    device, process = cpu(), psutil.Process().memory_info()
    free, total, used = device.free_bytes, device.memory_bytes, process.rss
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < total:
        free, total, used = min(free, max(0, limit - process.vms)), limit, process.vms
    return device.name, used, free, total


def _of_gpu() -> tuple[str, float, float, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return _of_cpu()
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), torch.cuda.memory_reserved(), free, total
