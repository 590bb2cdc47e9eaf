"""What the list says of a run: kept in ``state.json`` once it has ended, so that nothing else is read for it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.runs.folder import Folder
from engine.runs.progress import watch


def best_eval_loss(folder: Folder) -> float | None:
    """The least evaluation loss that a run has logged; None where it has logged none."""
    curve = watch(folder).curves.get("eval_loss")
    least = curve.least if curve else None
    return least[1] if least else None


def summary(folder: Folder, finished_at: float) -> dict[str, Any]:
    """The facts of a run at its end.

    Args:
        finished_at: as the state has it; a summary of an earlier end, before the run went on, is told by it.
    """
    progress = watch(folder)
    return {
        "finished_at": finished_at,
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": progress.loss,
        "best_eval_loss": best_eval_loss(folder),
        "size_bytes": _size(folder.path),
    }


def size_on_disk(folder: Folder) -> int:
    """Bytes of all files of a run; walked again only after something was put into the folder itself or taken away."""
    try:
        return _size_at(folder.path, folder.path.stat().st_mtime_ns)
    except OSError:
        return 0  # deleted meanwhile


@lru_cache(maxsize=10_000)
def _size_at(path: Path, changed_ns: int) -> int:
    return _size(path)


def _size(path: str | Path) -> int:
    """Links count as nothing: what they name lies elsewhere."""
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _size(entry.path)
                elif not entry.is_symlink():
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total  # deleted while it was walked
    return total
