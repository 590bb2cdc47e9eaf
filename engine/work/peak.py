"""How much memory a worker has taken at its fullest moment, as the system or the GPU's driver counted it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from engine.catalog.devices import Device


def peak_memory_bytes(device: Device, status: Path = Path("/proc/self/status")) -> int:
    """The peak of this process since it began: resident memory, or what torch allocated on the GPU.

    0 where the system does not say.
    """
    if not device.is_cpu:
        return max(torch.cuda.max_memory_allocated(each) for each in range(torch.cuda.device_count()))
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # no Linux
        return 0
    return int(found[1]) * 1024 if found else 0
