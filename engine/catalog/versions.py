"""With what a run is made: versions of what its numbers depend on, the state of the program's own code, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.catalog.devices import devices

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "pyarrow",
    "jinja2", "bitsandbytes", "deepspeed", "flash-attn", "liger-kernel", "galore-torch", "apollo-torch",
)  # fmt: skip
GIT_TIMEOUT_S = 10
PROJECT = Path(__file__).resolve().parent.parent.parent


def versions() -> dict[str, str]:
    """Python, the system, and every package of ``PACKAGES`` that is installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> list[dict[str, Any]]:
    """Each device by name, with its memory in bytes and, of the CPU, its cores."""
    return [
        {"address": each.address, "name": each.name, "memory_bytes": each.memory_bytes, "cores": each.cores}
        for each in devices()
    ]


def git_state(folder: Path = PROJECT) -> dict[str, Any] | None:
    """The commit that a folder is at, and which of its files differ from it; None: it is no repository of its own."""
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return None
    return {"commit": commit.strip(), "changed": [line[3:] for line in changed.splitlines()]}


def _git(folder: Path, *words: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking writes nothing
    try:
        return subprocess.run(
            ["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True,
            timeout=GIT_TIMEOUT_S, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
