"""Ending a run: ask it to save and stop, or end its whole process group and see that it is gone."""

from __future__ import annotations

import os
import signal
import time

import psutil

from engine.runs.folder import Folder
from engine.runs.read import is_alive, read_state
from engine.runs.record import update_state, write_text

GRACE_S = 10.0


def ask_to_stop(folder: Folder) -> None:
    """Ask a run to save what is worth keeping and to end after the step it is at."""
    write_text(folder.stop_request, "save\n")


def end_now(folder: Folder, grace_s: float = GRACE_S) -> None:
    """End a run's processes, first politely and after ``grace_s`` seconds for good; returns when they are gone."""
    pid = _pid_of_worker(folder, grace_s)
    if pid and is_alive(folder):
        _signal_group(pid, signal.SIGTERM)
        if not _wait_until_gone(folder, grace_s):
            _signal_group(pid, signal.SIGKILL)
            _wait_until_gone(folder, grace_s)
    if read_state(folder).status == "lost":
        update_state(folder, status="stopped", finished_at=time.time())


def _pid_of_worker(folder: Folder, timeout_s: float) -> int | None:
    """The worker's number; one that was started a moment ago is waited for until it has recorded it."""
    deadline = time.monotonic() + timeout_s
    while read_state(folder).pid is None and is_alive(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return read_state(folder).pid


def _signal_group(pid: int, number: int) -> None:
    """The worker leads a session of its own, so its group holds all its processes and nobody else's."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _wait_until_gone(folder: Folder, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    pid = read_state(folder).pid
    while time.monotonic() < deadline:
        if not is_alive(folder) and not (pid and _has_processes(pid)):
            return True
        time.sleep(0.05)
    return False


def _has_processes(group: int) -> bool:
    """Whether any process of a group lives; a zombie does not."""
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, PermissionError):
            continue  # it has just ended
    return False
