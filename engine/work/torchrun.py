"""A run of several processes, started and watched by torchrun; the first error of any of them is the run's.

Each process leaves a note of how it ended in a folder of its own beside the run's; the run's folder is written by
rank 0 while the processes live, and by whoever started them before and after.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.launch import NOTES
from engine.runs.record import Recorder, StopRequested, write_text

LEAVING_S = 3
"""Between SIGTERM and SIGKILL; less than a run's own grace (``engine.runs.stop``), so that asking once is enough."""
LOOK_S = 0.2
ECHOES = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset", "Broken pipe", "TCPStore")
"""Words in an error that says no more than that another process is gone."""


@dataclass(frozen=True)
class Note:
    """How one process ended.

    Args:
        status: "done", "stopped" or "failed".
        at: seconds since 1970.
        error: a sentence's key and facts, as a run's state keeps them.
        is_echo: it failed only because another one did.
    """

    status: str
    at: float
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)
    is_echo: bool = False


def launch(job: TrainJob, recorder: Recorder) -> dict[str, Any]:
    """Do a job as several processes, each of which begins in ``engine.work`` again. Returns rank 0's result.

    Raises:
        StopRequested: the processes left because they were asked to, before there was a result.
        KeyboardInterrupt: this process was told to end, and has ended the others.
        UserError: one of them failed; which one, and its error.
    """
    config, command, words = config_from_args(parse_args(torchrun_words(job, recorder.folder.path)))
    with TemporaryDirectory(prefix="lathe-ranks-") as folder:
        os.environ[NOTES] = folder
        failures: Mapping[int, ProcessFailure] = {}
        try:
            elastic_launch(config, command)(*words)
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as error:
            raise KeyboardInterrupt from error
        notes = read_notes(Path(folder))
    if failures:
        raise why_it_failed(notes, failures, job.processes_here * job.nnodes)
    first = notes[min(notes)]
    if first.status == "stopped" and not first.result:
        raise StopRequested
    return first.result


def torchrun_words(job: TrainJob, folder: Path) -> list[str]:
    """The words of torchrun's command line."""
    given = {
        "nproc_per_node": job.processes_here,
        "nnodes": job.nnodes,
        "node_rank": job.node_rank,
        "master_addr": job.master_addr,
        "master_port": job.master_port or free_port(),
        "rdzv_backend": job.rdzv_backend,
        "rdzv_id": job.rdzv_id or "lathe",
        "signals_to_handle": "SIGTERM",
        "shutdown_timeout": LEAVING_S,
    }
    endpoint = job.rdzv_endpoint
    if endpoint is None and job.rdzv_backend != "static":
        endpoint = f"{given['master_addr']}:{given['master_port']}"
    if endpoint:
        given["rdzv_endpoint"] = endpoint
    return [*(f"--{name}={value}" for name, value in given.items()), "--module", "engine.work", str(folder)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def why_it_failed(notes: Mapping[int, Note], failures: Mapping[int, ProcessFailure], processes: int) -> UserError:
    """The cause of a run's failure among what its processes say: the first error that is no echo of another's.

    Args:
        failures: what torchrun saw, by rank: processes that ended with an exit code other than 0.
    """
    own = {rank: note for rank, note in notes.items() if note.status == "failed" and not note.is_echo}
    if own:
        rank = min(own, key=lambda rank: own[rank].at)
        error = UserError(own[rank].error["key"], **own[rank].error["facts"])
        if rank == 0 or error.key == "out_of_memory":  # which `runs retry` knows by its name
            return error
        return UserError("rank_failed", rank=rank, processes=processes, cause=error.text(), cause_key=error.key)
    killed = {rank: failure for rank, failure in failures.items() if failure.exitcode < 0}
    if killed:
        rank = min(killed, key=lambda rank: _how_early(killed[rank], rank))
        name = signal.Signals(-killed[rank].exitcode).name
        return UserError("rank_killed", rank=rank, processes=processes, signal=name)
    echoes = [note.error["facts"].get("detail", "") for note in notes.values() if note.error]
    return UserError("ranks_parted", detail=next(filter(None, echoes), "no message"))


def _how_early(failure: ProcessFailure, rank: int) -> tuple[bool, float, int]:
    """Sorts processes that were killed: torchrun itself ends the others, by SIGTERM and after that by SIGKILL."""
    return -failure.exitcode == signal.SIGTERM, failure.timestamp, rank


def leave_note(rank: int, status: str, error: dict[str, Any] | None = None, **facts: Any) -> None:
    """Say how this process ends, before it ends."""
    note = {"status": status, "at": time.time(), "error": error, **facts}
    write_text(Path(os.environ[NOTES]) / f"{rank}.json", json.dumps(note, default=str))


def read_notes(folder: Path) -> dict[int, Note]:
    """The notes of all processes of this machine, by rank; one that was killed has left none."""
    return {int(path.stem): Note(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")}


def is_echo(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    from engine.work.ranks import Followed

    return isinstance(error, Followed) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ECHOES)
    )


def end_with_parent() -> None:
    """End this process and its own at once when torchrun's is gone: nothing is left that could record its end."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        print("The process that started this one is gone.", file=sys.stderr, flush=True)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
