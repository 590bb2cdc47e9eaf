"""A worker: reads one job from its run folder, does it, and records how it ended, whatever happens.

Started by ``engine.runs.start`` as ``python -m engine.work FOLDER [OWNER_PID]`` with the folder's lock already held.
A job of several processes is done by torchrun, which starts each of them as ``python -m engine.work FOLDER`` again.
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
from types import ModuleType
from typing import Any

import psutil

from engine.errors import Refused, UserError
from engine.options.base import Options
from engine.runs.folder import Folder
from engine.runs.killed import kills_for_memory
from engine.runs.launch import NOTES, needs_torchrun, place_in
from engine.runs.progress import watch
from engine.runs.read import read_job
from engine.runs.record import Recorder, StopRequested
from engine.runs.summary import summary
from engine.work.imports import lean_imports, uncollected
from engine.work.run_card import write_card
from engine.work.shortage import is_shortage, shortage
from engine.work.veil import hidden, secrets_here, veil_output

WORK = {"train": "engine.work.train", "preflight": "engine.work.preflight", "export": "engine.work.export",
        "gguf": "engine.work.gguf.job", "ollama": "engine.work.ollama", "chat": "engine.work.chat",
        "eval": "engine.work.evaluate", "data": "engine.work.inspect", "api": "engine.work.api.job"}  # fmt: skip
LATE = ("gguf", "ollama", "chat", "data", "api", "export")
"""Kinds whose module loads libraries only when it has seen what the job needs."""
OF_SEVERAL = ("train", "preflight")
"""Kinds that several processes may do together."""


def main(path: str, owner_pid: int | None) -> int:
    """Do the job in ``path``. Returns the exit code: 0 done, 1 failed, 130 stopped."""
    veil_output()
    recorder = _recorder(Folder(Path(path)))
    recorder.state(status="running", pid=os.getpid(), kills_before=kills_for_memory())
    signal.signal(signal.SIGTERM, _stop_at_once)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the one who watches; the run is asked to stop
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if owner_pid:
        threading.Thread(target=_end_with, args=(owner_pid,), daemon=True).start()
    try:
        result = _do(read_job(recorder.folder), recorder)
    except (StopRequested, KeyboardInterrupt):
        return _finish(recorder, "stopped", 130)
    except BaseException as error:
        traceback.print_exc()
        return _finish(recorder, "failed", 1, error=explain(error, recorder.folder))
    if recorder.is_stop_requested:
        return _finish(recorder, "stopped", 130, result=result)
    return _finish(recorder, "done", 0, result=result)


def main_of_rank(path: str) -> int:
    """Do this process's part of the job in ``path``. How it ends is told to the process that started it."""
    from engine.work import torchrun

    veil_output()
    torchrun.end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also while it waits for another rank inside a library
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rank = place_in(os.environ).rank
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s [{rank}] %(levelname)s %(name)s: %(message)s")
    recorder = _recorder(Folder(Path(path)))
    try:
        result = _do(read_job(recorder.folder), recorder)
    except StopRequested:
        torchrun.leave_note(rank, "stopped")
        return 0
    except BaseException as error:
        torchrun.leave_note(rank, "failed", explain(error, recorder.folder), is_echo=torchrun.is_echo(error))
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: the others are waiting
    torchrun.leave_note(rank, "stopped" if recorder.is_stop_requested else "done", result=result)
    return 0


def _recorder(folder: Folder) -> Recorder:
    """Of a worker alone, or of one of several ranks."""
    if place_in(os.environ) is None:
        return Recorder(folder)
    from engine.work.ranks import Ranks

    return Ranks.here().recorder(folder)


def _do(job: Options, recorder: Recorder) -> dict[str, Any]:
    if needs_torchrun(job) and place_in(os.environ) is None:
        from engine.work import torchrun

        return torchrun.launch(job, recorder)
    return _work(job.kind).run(job, recorder)


def _work(kind: str) -> ModuleType:
    """The module that does the jobs of a kind."""
    with uncollected() if kind in LATE else lean_imports(is_alone=kind not in OF_SEVERAL):
        return importlib.import_module(WORK[kind])


def explain(error: BaseException, folder: Folder | None = None) -> dict:
    """The cause of a failure as a sentence's key and facts: our own errors as they are, others by what they are. What
    libraries say may quote a token: no secret of the environment is left in it.

    Args:
        folder: of the run that failed; what helps against a shortage of memory depends on how far it had come.
    """
    found, secrets = _explained(error, folder), secrets_here()
    facts = {name: hidden(each, secrets) if isinstance(each, str) else each for name, each in found["facts"].items()}
    return {**found, "facts": facts}


def _explained(error: BaseException, folder: Folder | None) -> dict:
    if isinstance(error, Refused):
        return {"key": "refused_because", "facts": {"detail": error.text()}}
    if isinstance(error, UserError):
        return {"key": error.key, "facts": {name: str(value) for name, value in error.facts.items()}}
    text = f"{type(error).__name__}: {error}"
    if is_shortage(error):
        reached = watch(folder) if folder else None
        is_early = reached is not None and (reached.kind != "train" or not reached.total_steps)
        step = {} if reached is None or is_early else {"step": reached.step}
        return {"key": "out_of_memory_early" if is_early else "out_of_memory", "facts": {**step, **shortage(error)}}
    if (isinstance(error, OSError) and error.errno == 28) or "No space left on device" in text:
        return {"key": "disk_full", "facts": {"detail": text}}
    if place_in(os.environ):
        from engine.work.torchrun import is_echo

        if is_echo(error):
            return {"key": "ranks_parted", "facts": {"detail": text}}
    return {"key": "unexpected", "facts": {"detail": text}}


def _finish(recorder: Recorder, status: str, code: int, **facts) -> int:
    """Record the end; who sees it finds the run card."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending as it is
    ending = {"status": status, "finished_at": time.time(), **facts}
    write_card(recorder, **ending)
    recorder.state(**ending, **_summary(recorder.folder, ending["finished_at"]))
    return code


def _summary(folder: Folder, finished_at: float) -> dict[str, Any]:
    """What the list shows of the run; without it the list reads more, so its failure shall cost nothing but that."""
    try:
        return {"summary": summary(folder, finished_at)}
    except Exception:
        traceback.print_exc()
        return {}


def _stop_at_once(number, frame) -> None:
    raise KeyboardInterrupt


def _end_with(owner_pid: int) -> None:
    """End this process when its owner is gone."""
    while psutil.pid_exists(owner_pid):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if NOTES in os.environ:
        sys.exit(main_of_rank(sys.argv[1]))
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
