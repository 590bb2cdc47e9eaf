"""Makes the virtual environment, and the constraints that fit it: a torch that is already there and new enough is kept.

Run by the Makefile with whatever Python the user has, before anything is installed: standard library only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FIND_TORCH = """
import importlib.metadata, json, pathlib
try:
    torch = importlib.metadata.distribution("torch")
    print(json.dumps([torch.version, str(pathlib.Path(torch.locate_file("")).resolve())]))
except importlib.metadata.PackageNotFoundError:
    print("null")
"""


def main(folder: Path) -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - said here because nothing has looked at it yet
        raise SystemExit(f"Lathe needs Python 3.10 or later; {sys.executable} is {sys.version.split()[0]}.")
    bound = lower_bound("torch", Path("requirements.txt").read_text(encoding="utf-8"))
    python = folder / "bin" / "python"
    if not python.is_file():
        create(folder, torch_of(Path(sys.executable), bound))
    kept = torch_of(python, bound)
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    if kept:
        print(f"torch {kept[0]} is already there and is kept.")
        lines = [line for line in lines if not line.startswith("torch==")]
    (folder / "constraints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def create(folder: Path, torch: tuple[str, str] | None) -> None:
    """Make the virtual environment; one that sees the user's packages only if a usable torch is among them."""
    options = ["--system-site-packages"] if torch else []
    if subprocess.run([sys.executable, "-m", "venv", *options, str(folder)], check=False).returncode:
        raise SystemExit(
            f"The virtual environment {folder} could not be made. On Debian: sudo apt install python3-venv"
        )
    if torch and not torch_of(folder / "bin" / "python", (0,)):
        # The user's Python is a virtual environment itself, and a new one sees only the Python below it.
        site = next(folder.glob("lib/python3*/site-packages"))
        (site / "packages_with_torch.pth").write_text(torch[1] + "\n", encoding="utf-8")


def torch_of(python: Path, bound: tuple[int, ...]) -> tuple[str, str] | None:
    """Version and folder of the torch that an interpreter has, if it is at least ``bound``; it is not imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run([str(python), "-c", FIND_TORCH], stdout=subprocess.PIPE, env=environment, check=True)
    found = json.loads(answer.stdout)
    return tuple(found) if found and release(found[0]) >= bound else None


def lower_bound(package: str, requirements: str) -> tuple[int, ...]:
    """``(2, 6)`` for a line ``torch>=2.6``."""
    return release(re.search(rf"^{package}>=([\d.]+)", requirements, re.MULTILINE)[1])


def release(version: str) -> tuple[int, ...]:
    """``(2, 13, 0)`` for ``2.13.0+cpu``."""
    return tuple(int(part) for part in re.match(r"[\d.]+", version)[0].strip(".").split("."))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
