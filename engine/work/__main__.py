"""A worker: reads one job from its run folder, does it, and records how it ended, whatever happens.

Started by ``engine.runs.start`` as ``python -m engine.work FOLDER [OWNER_PID]`` with the folder's lock already held.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil

from engine.errors import Refused, UserError
from engine.runs.folder import Folder
from engine.runs.read import read_job
from engine.runs.record import Recorder, StopRequested

WORK = {"train": "engine.work.train", "export": "engine.work.export", "gguf": "engine.work.gguf.job",
        "chat": "engine.work.chat"}  # fmt: skip


def main(path: str, owner_pid: int | None) -> int:
    """Do the job in ``path``. Returns the exit code: 0 done, 1 failed, 130 stopped."""
    recorder = Recorder(Folder(Path(path)))
    recorder.state(status="running", pid=os.getpid())
    signal.signal(signal.SIGTERM, _stop_at_once)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the one who watches; the run is asked to stop
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if owner_pid:
        threading.Thread(target=_end_with, args=(owner_pid,), daemon=True).start()
    try:
        job = read_job(recorder.folder)
        result = importlib.import_module(WORK[job.kind]).run(job, recorder)
    except (StopRequested, KeyboardInterrupt):
        return _finish(recorder, "stopped", 130)
    except BaseException as error:
        traceback.print_exc()
        return _finish(recorder, "failed", 1, error=explain(error))
    if recorder.is_stop_requested:
        return _finish(recorder, "stopped", 130, result=result)
    return _finish(recorder, "done", 0, result=result)


def explain(error: BaseException) -> dict:
    """The cause of a failure as a sentence's key and facts: our own errors as they are, others by what they are."""
    if isinstance(error, Refused):
        return {"key": "refused_because", "facts": {"detail": error.text()}}
    if isinstance(error, UserError):
        return {"key": error.key, "facts": {name: str(value) for name, value in error.facts.items()}}
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return {"key": "out_of_memory", "facts": {"detail": text}}
    if (isinstance(error, OSError) and error.errno == 28) or "No space left on device" in text:
        return {"key": "disk_full", "facts": {"detail": text}}
    return {"key": "unexpected", "facts": {"detail": text}}


def _finish(recorder: Recorder, status: str, code: int, **facts) -> int:
    recorder.state(status=status, finished_at=time.time(), **facts)
    return code


def _stop_at_once(number, frame) -> None:
    raise KeyboardInterrupt


def _end_with(owner_pid: int) -> None:
    """End this process when its owner is gone."""
    while psutil.pid_exists(owner_pid):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
