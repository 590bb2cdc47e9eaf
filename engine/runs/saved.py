"""What a run has saved on its way: each checkpoint with what is in it, what it scored, and whether it is intact."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from engine.runs.checkpoints import MANIFEST, STATE, damage, numbered, read_list
from engine.runs.folder import Folder

FULL_WEIGHTS = re.compile(r"(pytorch_)?model(-\d+-of-\d+|_fsdp_\d+)?(\.safetensors|\.bin)?(\.index\.json)?")
DEEPSPEED = re.compile(r"global_step\d+")
RANDOM_STATE = re.compile(r"rng_state(_\d+)?\.pth")


@dataclass(frozen=True)
class Saved:
    """One checkpoint.

    Args:
        saved_at: seconds since 1970.
        holds: of "adapter", "weights" (all of the model), "optimizer", "scheduler", "random" and "scaler".
        ranks: of how many processes the random states are.
        has_list: whether it says which files it has; one that another program has written does not.
        damaged: the first file that is missing, cut off or changed; None: there is none, as far as is known.
        is_verified: whether every byte was read and is as it was written, and no file has been touched since.
        unsummed: how many of its files are known by their size alone.
        loss: the last one that was logged up to its step.
        eval_loss: the one of its step.
        best_step: of the one that was best up to its step, where the training kept count of that.
        is_latest: the last one that is intact; from it the run goes on.
    """

    path: Path
    step: int
    saved_at: float
    size_bytes: int
    holds: tuple[str, ...]
    ranks: int
    has_list: bool
    damaged: str | None = None
    is_verified: bool = False
    unsummed: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    best_step: int | None = None
    is_best: bool = False
    is_latest: bool = False


class Scores(NamedTuple):
    """What a checkpoint's ``trainer_state.json`` says of its step, and of the best one up to there."""

    loss: float | None = None
    eval_loss: float | None = None
    best_step: int | None = None


def saved(folder: Folder) -> list[Saved]:
    """All checkpoints of a run, the earliest first. Names and sizes are looked at; files are read once, if small."""
    found = [each for path in numbered(folder.path) if (each := _look(path))]
    intact = [each for each in found if each.damaged is None]
    latest, best = (intact[-1].step if intact else None), _best(intact)
    return [replace(each, is_latest=each.step == latest, is_best=each.step == best) for each in found]


def verify(checkpoint: Path) -> str | None:
    """Read a checkpoint from its first byte to its last. Returns the first file that is not as it was written.

    What was found is remembered in this process for as long as no file of it changes.
    """
    with _verifying:  # one at a time: two visitors who ask for the same are told the same, and the disk reads it once
        stamp = _stamp(_files(checkpoint))
        known = _verified.get(str(checkpoint.absolute()))
        if known and known[0] == stamp:
            return known[1]
        file = damage(checkpoint)
        _verified[str(checkpoint.absolute())] = (stamp, file)
        return file


@lru_cache(maxsize=256)
def contents(names: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """What files of these names are, as ``Saved.holds`` calls it; and of how many processes the random states are."""
    top = {name.split("/")[0] for name in names}
    ranks = sum(RANDOM_STATE.fullmatch(name) is not None for name in top)
    is_whole = any(DEEPSPEED.fullmatch(name) for name in top)  # a folder with weights, optimizer and scheduler
    held = {
        "adapter": "adapter_config.json" in top,
        "weights": is_whole or any(FULL_WEIGHTS.fullmatch(name) for name in top),
        "optimizer": is_whole or any(name.startswith("optimizer") for name in top),
        "scheduler": is_whole or "scheduler.pt" in top,
        "random": ranks > 0,
        "scaler": "scaler.pt" in top,
    }
    return tuple(name for name, is_there in held.items() if is_there), ranks


def lacks_optimizer(checkpoint: Path) -> bool:
    """Whether it holds weights only, so that optimizer and learning rate begin anew with whoever goes on from it."""
    holds, _ = contents(tuple(_files(checkpoint)))
    return not {"optimizer", "scheduler"} <= set(holds)


_verifying = threading.Lock()
_verified: dict[str, tuple[tuple, str | None]] = {}
"""Checkpoint → its files' names, sizes and times when it was read, and what was damaged then."""


def _look(checkpoint: Path) -> Saved | None:
    """A checkpoint by itself; None: it was deleted just now."""
    files = _files(checkpoint)
    if not files:
        return None
    step = int(checkpoint.name.rsplit("-", 1)[1])
    scores = Scores()
    if STATE in files:
        scores = _scores(checkpoint / STATE, step, files[STATE].st_mtime_ns, files[STATE].st_size)
    stamp, damaged_then = _verified.get(str(checkpoint.absolute()), (None, None))
    was_read = stamp == _stamp(files)
    holds, ranks = contents(tuple(files))
    return Saved(
        path=checkpoint,
        step=step,
        saved_at=next((files[name].st_mtime for name in (MANIFEST, STATE) if name in files), _latest(files)),
        size_bytes=sum(file.st_size for file in files.values()),
        holds=holds,
        ranks=ranks,
        has_list=MANIFEST in files,
        damaged=damaged_then if was_read else damage(checkpoint, reads_files=False),
        is_verified=was_read and damaged_then is None and MANIFEST in files,
        unsummed=_unsummed(checkpoint),
        loss=scores.loss,
        eval_loss=scores.eval_loss,
        best_step=scores.best_step,
    )


def _best(intact: list[Saved]) -> int | None:
    """The step of the best one: as the training says, else by the loss in evaluation."""
    if intact and intact[-1].best_step is not None:
        return intact[-1].best_step
    evaluated = [each for each in intact if each.eval_loss is not None]
    return min(evaluated, key=lambda each: each.eval_loss or 0).step if len(evaluated) > 1 else None


@lru_cache(maxsize=1024)
def _scores(state: Path, step: int, changed_ns: int, size: int) -> Scores:
    """Read once for as long as the file stays as it is; what another program wrote may be of any shape."""
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        lines = [line for line in content["log_history"] if line.get("step", step + 1) <= step]
        losses = [value for line in lines if (value := _number(line.get("loss"))) is not None]
        at_step = [_number(line.get("eval_loss")) for line in lines if line["step"] == step and "eval_loss" in line]
        best = content.get("best_global_step")
        return Scores(losses[-1] if losses else None, at_step[-1] if at_step else None, best if best else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Scores()


def _unsummed(checkpoint: Path) -> int:
    try:
        return sum(checksum is None for _, checksum in read_list(checkpoint).values())
    except (OSError, ValueError):
        return 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _stamp(files: dict[str, os.stat_result]) -> tuple:
    return tuple((name, file.st_size, file.st_mtime_ns) for name, file in sorted(files.items()))


def _latest(files: dict[str, os.stat_result]) -> float:
    return max(file.st_mtime for file in files.values())


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Every file below a folder, by its path from there; empty, if it is gone."""
    begin = len(str(folder)) + 1
    return {entry.path[begin:]: stat for entry, stat in _walk(str(folder))}


def _walk(folder: str) -> Iterator[tuple[os.DirEntry, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path)
                elif entry.is_file():
                    yield entry, entry.stat()
    except OSError:
        return  # deleted meanwhile, or not ours to read
