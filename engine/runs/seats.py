"""One training at a time on each device: who sits where, told by the locks of run folders. It knows of no queue.

A seat is a GPU, or the CPU with main memory. Its file names the run that took it last; the seat is taken for as long as
a process of that run holds the run's lock, so whatever is killed, no seat stays taken. Exports, checks and chats take
no seat: they are short, or somebody sits before them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine.catalog.devices import Device
from engine.errors import UserError
from engine.options.base import Options
from engine.options.jobs import EvalJob, PreflightJob, TrainJob
from engine.runs.folder import QUEUE, Folder
from engine.runs.read import is_alive, read_state
from engine.runs.record import write_text

SEATS = QUEUE / "seats"
CPU = "cpu"


@dataclass(frozen=True)
class Wish:
    """Any ``count`` of these seats, those that suit best first."""

    seats: tuple[str, ...]
    count: int


def seat_of(device: Device, environment: Mapping[str, str] = os.environ) -> str:
    """``cpu``, ``cuda:1``: a GPU by its number in the machine, also where this process may not use all of them."""
    if device.is_cpu:
        return CPU
    visible = [word.strip() for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    return f"cuda:{visible[device.index] if device.index < len(visible) else device.index}"


def wished(job: Options, found: Iterable[Device]) -> Wish | None:
    """The seats that a job needs; None: it needs none.

    A training that spans several machines takes none either: all its machines must begin together, and none can wait
    for its own queue.
    """
    gpus = [device for device in found if not device.is_cpu]
    freest = sorted(gpus, key=lambda gpu: (-gpu.free_bytes, gpu.index))
    if isinstance(job, EvalJob):
        return Wish(tuple(map(seat_of, freest)) or (CPU,), 1)
    if not isinstance(job, TrainJob) or isinstance(job, PreflightJob) or job.nnodes > 1:
        return None
    if job.devices:
        named = [number.removeprefix("cuda:") for number in job.devices]
        freest = [gpu for gpu in freest if str(gpu.index) in named]
    if not freest or job.training_arguments.get("use_cpu") in (True, "true", "True"):
        return Wish((CPU,), 1)
    count = len(freest) if job.devices else min(job.processes_here, len(freest))
    return Wish(tuple(seat_of(gpu) for gpu in freest), count)


def last_on(seat: str) -> Folder | None:
    """The run that took a seat last, whether it still sits there or not; None: nobody has, or has moved on since."""
    try:
        folder = Folder(Path(json.loads(_file(seat).read_text(encoding="utf-8"))["folder"]))
        return folder if seat in read_state(folder).seats else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never used, or the run has been deleted


def occupant(seat: str) -> Folder | None:
    """The run that sits on a seat now."""
    folder = last_on(seat)
    return folder if folder and is_alive(folder) else None


@contextmanager
def taken(folder: Folder, wish: Wish | None, patience_s: float) -> Iterator[tuple[str, ...]]:
    """Choose free seats; when the block ends well, they are taken by the run.

    Within the block the caller, who holds the run's lock, writes a state that names these seats. Nobody else can choose
    meanwhile.

    Args:
        patience_s: how long to wait for a run that has ended and is about to leave.

    Raises:
        UserError: ``device_busy``; nothing was changed.
    """
    if wish is None:
        yield ()
        return
    SEATS.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    while True:
        with FileLock(QUEUE / "seats.lock"):
            free, sitting = _looked(folder, wish)
            if len(free) >= wish.count:
                chosen = free[: wish.count]
                yield chosen
                sit(folder, chosen)
                return
        if time.monotonic() > deadline or not any(read_state(each).has_ended for each in sitting):
            raise UserError("device_busy", device=", ".join(wish.seats), name=", ".join(each.name for each in sitting))
        time.sleep(0.05)


def sit(folder: Folder, seats: Iterable[str]) -> None:
    """Note that a run, whose state names these seats, is the last one on them."""
    SEATS.mkdir(parents=True, exist_ok=True)
    for seat in seats:
        write_text(_file(seat), json.dumps({"folder": str(folder.path)}))


def within(seats: Sequence[str], found: Iterable[Device]) -> list[Device]:
    """What is left to choose from for a run that has taken these seats; all, where they are no GPUs."""
    return [device for device in found if device.is_cpu or CPU in seats or not seats or seat_of(device) in seats]


def _looked(folder: Folder, wish: Wish) -> tuple[tuple[str, ...], list[Folder]]:
    """The free ones of the seats, and who sits on the others. Whoever starts a run holds that run's lock already."""
    own = folder.path.resolve()
    on = {seat: occupant(seat) for seat in wish.seats}
    others = {seat: each for seat, each in on.items() if each is not None and each.path.resolve() != own}
    return tuple(seat for seat in wish.seats if seat not in others), list(dict.fromkeys(others.values()))


def _file(seat: str) -> Path:
    return SEATS / (re.sub(r"[^\w.]", "-", seat) + ".json")
