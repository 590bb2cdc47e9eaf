"""Write side of a run's folder: state replaced atomically, events appended one line at a time. One writer at a time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from engine.options.base import Options
from engine.options.jobs import EvalJob
from engine.options.yaml_text import write_yaml
from engine.runs.folder import Folder


class StopRequested(Exception):
    """Somebody asked the run to stop; what is worth keeping has been, or will be, saved."""


class Recorder:
    """What a worker uses to say where it stands.

    Several processes of one run share a folder; only the first (rank 0) records.
    """

    PHASE_INTERVAL_S = 0.5

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._last_phase: tuple[str, float] = ("", 0.0)

    def event(self, **facts: Any) -> None:
        """Append one event, with the time at which it happened."""
        append_line(self.folder.events, {**facts, "time": round(time.time(), 3)})

    def phase(self, name: str, current: int | None = None, total: int | None = None, unit: str | None = None) -> None:
        """Say what is being done now, and how far it is; more often than twice a second it is not written.

        Args:
            name: a key below ``phases`` in the locales, e.g. "loading".
            current, total: how much is done, of how much, in ``unit`` ("rows", "bytes", "tensors").
        """
        now = time.monotonic()
        is_last = total is not None and current == total
        if name == self._last_phase[0] and now - self._last_phase[1] < self.PHASE_INTERVAL_S and not is_last:
            return
        self._last_phase = (name, now)
        facts = {"current": current, "total": total, "unit": unit}
        self.event(phase=name, **{key: value for key, value in facts.items() if value is not None})

    def warn(self, key: str, /, **facts: Any) -> None:
        """Tell the user something worth knowing: a sentence of the locales' ``errors``, and what fills it."""
        self.event(warning=key, facts=facts)

    def state(self, **facts: Any) -> None:
        update_state(self.folder, **facts)

    @property
    def is_stop_requested(self) -> bool:
        return self.folder.stop_request.exists()

    def check_stop(self) -> None:
        """Raises: StopRequested, if the run was asked to stop."""
        if self.is_stop_requested:
            raise StopRequested


def write_job(folder: Folder, job: Options, language: str) -> None:
    content = {"kind": job.kind, "language": language, "options": job.values()}
    write_text(folder.job, write_yaml(content))


def about(job: Options) -> dict[str, Any]:
    """What the list of runs says of a job, small enough for ``state.json``."""
    names = {"model": "model_name_or_path", "method": "finetuning_type", "datasets": "dataset"}
    found = {ours: getattr(job, theirs, None) for ours, theirs in names.items()}
    if isinstance(job, EvalJob):
        found |= {"method": job.kind, "datasets": (job.task,) if job.task else job.eval_dataset or job.dataset}
    return found


def update_state(folder: Folder, **facts: Any) -> None:
    """Merge facts into ``state.json``, atomically."""
    try:
        before = json.loads(folder.state.read_text(encoding="utf-8"))
    except FileNotFoundError:
        before = {}
    write_text(folder.state, json.dumps({**before, **facts}, ensure_ascii=False, indent=1, default=str))


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one JSON object as one line, in one write; a torn last line of a killed writer is closed first."""
    line = json.dumps(content, ensure_ascii=False, default=str) + "\n"
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode("utf-8"))


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old text or the new one, never a half."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name with nothing in it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
