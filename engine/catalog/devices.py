"""What this machine computes with, and in which number format: read from the system, without torch.

Knows nothing of what is running on the devices now beyond their free memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["cpu", "cuda"]
Dtype = Literal["float32", "float16", "bfloat16"]

NVIDIA_SMI_TIMEOUT_S = 10
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in /proc/cpuinfo of instructions that multiply bfloat16 matrices: AMD and Intel; Intel's AMX; Arm."""


@dataclass(frozen=True)
class Device:
    """Something to compute on.

    Args:
        name: as its maker calls it.
        memory_bytes, free_bytes: 0 where the system does not say.
        index: its number among the GPUs that a program may use, as torch counts them.
        capability: CUDA compute capability, (7, 5) for a T4; None for a CPU, or where the driver does not say.
        cores: physical cores that this process may use; 0 for a GPU.
        flags: a CPU's instruction sets.
    """

    kind: Kind
    name: str
    memory_bytes: int = 0
    free_bytes: int = 0
    index: int = 0
    capability: tuple[int, int] | None = None
    cores: int = 0
    flags: frozenset[str] = frozenset()

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def address(self) -> str:
        """What torch calls it: ``cpu``, ``cuda:0``."""
        return "cpu" if self.is_cpu else f"cuda:{self.index}"

    @property
    def has_fast_bfloat16(self) -> bool:
        """Whether bfloat16 is faster than float32 here, in place of only being possible.

        Measured on an EPYC without such instructions: 16 GFLOP/s in bfloat16 against 143 in float32.
        """
        if self.is_cpu:
            return bool(self.flags & BFLOAT16_FLAGS)
        return self.capability is None or self.capability >= (8, 0)


@dataclass(frozen=True)
class Precision:
    """In which number formats a training computes, and why.

    Args:
        weights: of the weights that are not trained.
        trained: of the weights that are.
        autocast: of the matrix products; "float32" means no autocast, "float16" needs loss scaling.
        reason_key: the sentence ``errors.<reason_key>`` says why, filled with ``facts``.
        is_changed: it is not what was asked for.
    """

    weights: Dtype
    trained: Dtype
    autocast: Dtype
    reason_key: str
    facts: dict[str, Any] = field(default_factory=dict)
    is_changed: bool = False
    is_cpu: bool = False


def devices() -> tuple[Device, ...]:
    """The CPU, then the NVIDIA GPUs that a program started now could use."""
    return (cpu(), *gpus())


def best_device(found: Iterable[Device]) -> Device:
    """The GPU with the most free memory, or the CPU where there is none."""
    return max(found, key=lambda device: (not device.is_cpu, device.free_bytes, -device.index))


def precision(device: Device, bf16: bool = False, fp16: bool = False, pure_bf16: bool = False) -> Precision:
    """The formats to train in on a device.

    What was asked for is done wherever the device can do it at its full speed; if not, the nearest that learns the
    same is used, with ``is_changed`` and the reason. If nothing was asked for, it is the fastest that learns the same.

    Args:
        bf16, fp16: matrix products in this format, trained weights in float32.
        pure_bf16: trained weights in bfloat16 too, which saves memory and rounds small updates away.
    """
    facts = {"device": device.name, "capability": ".".join(map(str, device.capability or ()))}

    def chosen(dtype: Dtype, reason: str, is_changed: bool = False) -> Precision:
        pure = pure_bf16 and dtype == "bfloat16"
        return Precision(
            weights=dtype,
            trained="bfloat16" if pure else "float32",
            autocast="float32" if pure else dtype,
            reason_key=reason,
            facts={**facts, "dtype": dtype},
            is_changed=is_changed,
            is_cpu=device.is_cpu,
        )

    if bf16 or pure_bf16:
        if device.has_fast_bfloat16:
            return chosen("bfloat16", "precision.as_asked")
        if device.is_cpu:
            return chosen("float32", "precision.cpu_without_bfloat16", is_changed=True)
        return chosen("float16", "precision.gpu_without_bfloat16", is_changed=True)
    if fp16:
        return (
            chosen("float32", "precision.cpu_without_float16", is_changed=True)
            if device.is_cpu
            else chosen("float16", "precision.as_asked")
        )
    if device.has_fast_bfloat16:
        return chosen("bfloat16", "precision.fast_bfloat16")
    if device.is_cpu:
        return chosen("float32", "precision.cpu_without_bfloat16")
    if device.capability >= (7, 0) or device.capability == (6, 0):
        return chosen("float16", "precision.gpu_without_bfloat16")
    return chosen("float32", "precision.gpu_slow_float16")  # 6.1: float16 at 1/64 of float32's speed


def recommended_threads() -> int:
    """Threads for computing on the CPU: one for each physical core that this process may use."""
    return cpu().cores


def memory_text(size_bytes: int) -> str:
    """A size for people: ``"15.8 GB"``, ``"512 MB"``; 1 GB = 10⁹ bytes."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes / 1e6:.0f} MB"


def cpu(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Device:
    """The CPU and main memory, within the limits that a container sets."""
    info = _text(proc / "cpuinfo")
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    total, free = _memory(proc, cgroup)
    return Device(
        kind="cpu",
        name=name[1].strip() if name else "CPU",
        memory_bytes=total,
        free_bytes=free,
        cores=_usable_cores(info, cgroup),
        flags=frozenset(flags[1].split()) if flags else frozenset(),
    )


def gpus() -> tuple[Device, ...]:
    """NVIDIA's GPUs as ``nvidia-smi`` lists them; none where there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "index,name,memory.total,memory.free,compute_cap,uuid"
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # a broken driver computes nothing: as good as no GPU
    return parse_gpus(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(listing: str, visible: str | None = None) -> tuple[Device, ...]:
    """GPUs from ``nvidia-smi``'s lines "index, name, total MiB, free MiB, capability, uuid".

    Args:
        visible: value of ``CUDA_VISIBLE_DEVICES``: indices or starts of uuids, in the order in which torch will count
            them; an unknown one ends the list, as in CUDA. None: all.
    """
    found = {}
    for line in listing.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 6 and parts[0].isdigit():
            found[parts[0]] = parts
    chosen = list(found.values())
    if visible is not None:
        chosen = []
        for word in (word.strip() for word in visible.split(",")):
            match = [parts for parts in found.values() if word == parts[0] or (word and parts[5].startswith(word))]
            if len(match) != 1:
                break
            chosen.append(match[0])
    return tuple(
        Device("cuda", name, _mebibytes(total), _mebibytes(free), index, _capability(capability))
        for index, (_, name, total, free, capability, _) in enumerate(chosen)
    )


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # "[N/A]" where memory is shared with the CPU


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _memory(proc: Path, cgroup: Path) -> tuple[int, int]:
    sizes = {
        key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    }
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    limit, used = _text(cgroup / "memory.max").strip(), _text(cgroup / "memory.current").strip()
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        total, free = int(limit), min(free, max(0, int(limit) - int(used)))
    return total, free


def _usable_cores(cpuinfo: str, cgroup: Path) -> int:
    """Physical cores, of those that the scheduler and the container leave to this process."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for block in cpuinfo.split("\n\n"):
        facts = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", block, re.MULTILINE))
        if facts.get("processor", "").isdigit() and int(facts["processor"]) in allowed:
            cores.add((facts.get("physical id"), facts.get("core id", facts["processor"])))
    count = len(cores) or len(allowed)
    quota, _, period = _text(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


def _text(path: Path) -> str:
    """A file of the kernel; empty where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
