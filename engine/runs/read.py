"""Read side of a run's folder: list, state, events from an offset, alive or lost. Readers never write."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from engine.errors import UserError
from engine.options.base import Options
from engine.options.jobs import JOBS
from engine.runs.folder import Folder, all_folders
from engine.runs.killed import lost_to_memory

BLOCK_BYTES = 1 << 18
ENDED = ("done", "failed", "stopped", "lost")
UNENDED = ("starting", "running")
"""What ``state.json`` says of a run whose worker has not recorded its end."""
UNREADABLE = (OSError, UserError)
"""What reading a job may raise: the run was deleted meanwhile, edited by hand, or is of another version."""


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Args:
        status: "queued", "starting", "running", "stopping", "done", "failed", "stopped" or "lost" (its worker died
            unheard).
        kind: "train", "export", "gguf" or "chat".
        started_at, finished_at: seconds since 1970, or None.
        owner_pid: process without which the worker ends; None: it outlives everybody.
        error: ``{"key": …, "facts": {…}}`` of a failed run, or of a lost one whose
            end can be guessed; else None.
        result: what the job leaves behind, e.g. ``{"export_dir": …}``.
        submitted_at: when it was put in the queue, if it was; seconds since 1970.
        seats: the devices that a training has taken, as ``engine.runs.seats`` calls them.
        about: "model", "method" and "datasets" of the job; empty in folders of earlier versions.
        summary: as ``engine.runs.summary`` makes it; of a run that has not ended at most "best_eval_loss".
    """

    status: str
    kind: str
    started_at: float | None = None
    finished_at: float | None = None
    pid: int | None = None
    owner_pid: int | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)
    submitted_at: float | None = None
    seats: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """Whether it stands in the queue and nothing of it has been done yet."""
        return self.status == "queued"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


def is_alive(folder: Folder) -> bool:
    """Whether the run's worker lives: it holds the lock for exactly as long, also through ``kill -9``."""
    try:
        with folder.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def read_state(folder: Folder) -> State:
    """Raises: FileNotFoundError, if the folder holds no run."""
    content, alive = _content_and_life(folder)
    status = content["status"]
    if status in UNENDED:
        if not alive:
            # Who was to start it was killed on the way: it waits as before.
            is_cut_short = status == "starting" and content.get("pid") is None and folder.queued.is_file()
            status = "queued" if is_cut_short else "lost"
        elif folder.stop_request.exists():
            status = "stopping"
    names = ("started_at", "finished_at", "pid", "owner_pid", "error", "submitted_at")
    known = {name: content.get(name) for name in names}
    if status == "lost" and not known["error"]:
        known["error"] = lost_to_memory(content.get("kills_before"))
    seats = tuple(content.get("seats") or ())
    known |= {name: content.get(name) or {} for name in ("result", "about", "summary")}
    return State(status=status, kind=content["kind"], seats=seats, **known)


def _content_and_life(folder: Folder) -> tuple[dict[str, Any], bool]:
    """``state.json``, and whether the worker lives; of a run that has ended by its own account nobody asks that.

    A worker records its end before it lets go of the lock. So a free lock means that it died only if the state is the
    same before and after the lock was found free.
    """
    before = None
    while True:
        content = json.loads(folder.state.read_text(encoding="utf-8"))
        if content["status"] not in UNENDED or content == before:
            return content, False
        if is_alive(folder):
            return content, True
        before = content


def read_job(folder: Folder) -> Options:
    """The job exactly as it was asked.

    Raises:
        FileNotFoundError: the run has been deleted.
        UserError: the file is not what was written; Refused: an incompatible version wrote it.
    """
    try:
        content = yaml.safe_load(folder.job.read_text(encoding="utf-8"))
        kind, options = JOBS[content["kind"]], dict(content["options"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError("job_unreadable", path=folder.job, detail=" ".join(str(error).split())) from error
    return kind.from_values(options)


def read_language(folder: Folder) -> str:
    """The language in which a worker writes what is read outside the page."""
    return yaml.safe_load(folder.job.read_text(encoding="utf-8"))["language"]


def read_events(folder: Folder, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The next events from a byte offset on, and the offset to go on from. A line that is still being written waits.

    At most about ``BLOCK_BYTES`` are read: a long log takes several calls, and all of it is read when the offset stays.
    """
    size = BLOCK_BYTES
    try:
        with folder.events.open("rb") as file:
            file.seek(offset)
            block = file.read(size)
            while len(block) == size and b"\n" not in block:  # a line longer than a block
                block += file.read(size)
                size *= 2
    except FileNotFoundError:
        return [], offset
    whole = block.rfind(b"\n") + 1
    return _parsed(block[:whole].split(b"\n")), offset + whole


def last_events(folder: Folder, last_bytes: int = 16384) -> list[dict[str, Any]]:
    """The events at the end of a long log, without a look at those before; possibly none."""
    with folder.events.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - last_bytes))
        return _parsed(file.read().split(b"\n")[1 if size > last_bytes else 0 :])


def _parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    """The events that lines hold, read in one go where none is torn: that takes half the time."""
    lines = [line for line in lines if line.strip()]
    try:
        events = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        events = []
    if len(events) != len(lines):
        events = [_event(line) for line in lines]
    return [event for event in events if isinstance(event, dict)]


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # the torn last line of a writer that was killed


def read_log(folder: Folder, last_bytes: int = 65536) -> str:
    """The end of the raw log; of a progress bar that rewrites its line, the last form only."""
    try:
        with folder.log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - last_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    lines = text.split("\n")[1 if size > last_bytes else 0 :]
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)


def list_runs(*kinds: str) -> list[tuple[Folder, State]]:
    """All runs of the given kinds (of every kind, when none is given), the latest first."""
    found = []
    for folder in all_folders():
        try:
            state = read_state(folder)
        except (OSError, ValueError, KeyError):
            continue  # deleted meanwhile, or not a run of ours
        if not kinds or state.kind in kinds:
            found.append((folder, state))
    return sorted(found, key=lambda run: run[1].started_at or run[1].submitted_at or 0, reverse=True)
