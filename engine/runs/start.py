"""Starting a run: its folder, then a worker in a session of its own that outlives whoever started it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from engine.catalog.checks import problems_on_disk
from engine.catalog.devices import Device, devices
from engine.errors import Problem, Refused, UserError
from engine.options.base import Options
from engine.options.jobs import ChatJob, DataJob, EvalJob, ExportJob, GgufJob, OllamaJob, PreflightJob, TrainJob
from engine.runs.checkpoints import numbered, remove
from engine.runs.finish import finish_problems, guard_command, on_finish_of
from engine.runs.folder import SAVES, Folder, new_folder
from engine.runs.launch import device_problems, own_folder, place_in, worker_command, worker_environment
from engine.runs.read import read_state
from engine.runs.record import about, update_state, write_job
from engine.runs.resume import checkpoint_problem
from engine.runs.seats import taken, wished, within

READER_S = 1.0
"""A reader holds the lock for a moment; a worker for as long as it lives."""
LEAVING_S = 30.0
"""How long a worker that has recorded its end may take to leave its libraries and let go of the lock."""
PROJECT = Path(__file__).resolve().parent.parent.parent


def start(
    job: Options, language: str = "en", owner_pid: int | None = None, folder: Folder | None = None,
    patience_s: float = LEAVING_S,
) -> Folder:  # fmt: skip
    """Start a job in a process of its own and return at once.

    Args:
        job: a job without problems.
        language: language of what the worker itself prints.
        owner_pid: the worker ends when this process does; None: it outlives everybody.
        folder: where it is to run; None: where ``folder_for`` says.
        patience_s: how long to wait for a run on the same device that has ended and is about to leave.

    A process that torchrun or ``accelerate launch`` has started takes its place in their group: its worker is one rank
    of the run, and ends with it.

    Raises:
        Refused: files or devices that the job names are not there, or cannot be read.
        UserError: the folder is in use, or holds a finished run; another training is on the device (``device_busy``).
    """
    is_training = isinstance(job, TrainJob)
    found = checked_devices(job)
    place = place_in(os.environ) if is_training else None
    if place:
        owner_pid = owner_pid or os.getpid()
    main = folder or folder_for(job)
    own = own_folder(job, main) if is_training else main
    own.path.mkdir(parents=True, exist_ok=True)
    with own.lock.open("ab+") as lock:
        take_lock(lock, own)
        if own == main:
            refuse_finished(job, own)
        with taken(own, None if place else wished(job, found), patience_s) as seats:
            for path in (own.stop_request, own.card):
                path.unlink(missing_ok=True)
            anew: dict[str, Any] = {}
            if isinstance(job, TrainJob | EvalJob) and job.overwrite_output_dir:
                _clear(own)
                anew = {"summary": {}}
            write_job(own, job, language)
            update_state(
                own, kind=job.kind, status="starting", pid=None, started_at=time.time(), finished_at=None, error=None,
                result=None, owner_pid=owner_pid, seats=seats, about=about(job), **anew,
            )  # fmt: skip
        leave_link(main)
        with _guarded(job, own) if own == main else nullcontext(()) as held:
            _spawn(job, own, lock.fileno(), owner_pid, within(seats, found), *held)
        own.queued.unlink(missing_ok=True)
    return own


def checked_devices(job: Options) -> tuple[Device, ...]:
    """The devices of this machine, for a training, once it is seen that what the job names is there.

    Raises:
        Refused: something is not there, or cannot be read.
    """
    is_training = isinstance(job, TrainJob)
    found = devices() if isinstance(job, TrainJob | EvalJob) else ()
    place = place_in(os.environ) if is_training else None
    problems = problems_on_disk(job) + ([] if place else device_problems(job, found))
    if place and not job.output_dir:
        problems.append(Problem("devices.output_dir", "output_dir"))
    problems += finish_problems(job, os.environ)
    if is_training and not job.node_rank and (place is None or place.is_first):  # others may not see the first's disk
        problems += [problem for problem in [checkpoint_problem(job)] if problem]
    if problems:
        raise Refused(problems)
    return found


def folder_for(job: Options) -> Folder:
    """Where a job's run lies: a training run in its ``output_dir``, the others in a folder of the same shape."""
    if isinstance(job, PreflightJob):
        return new_folder("preflight", job.model_name_or_path, "preflight")
    if isinstance(job, TrainJob):
        if job.output_dir:
            return Folder(Path(job.output_dir))
        return new_folder("train", job.model_name_or_path, job.finetuning_type)
    if isinstance(job, EvalJob):
        return Folder(Path(job.output_dir)) if job.output_dir else new_folder("eval", job.model_name_or_path, "eval")
    if isinstance(job, ChatJob):
        return new_folder(job.kind, job.ollama or job.gguf or job.model_name_or_path, "chat")
    if isinstance(job, ExportJob | GgufJob):
        return new_folder(job.kind, job.model_name_or_path, job.kind)
    if isinstance(job, OllamaJob):
        return new_folder("ollama", job.ollama, "ollama")
    if isinstance(job, DataJob):
        return new_folder("data", job.dataset[0], "data")
    raise TypeError(f"{type(job).__name__} is not run by a worker")


def take_lock(lock: BinaryIO, folder: Folder) -> None:
    """Lock the folder; the worker inherits the open file, and with it the lock, with no gap between.

    Raises:
        UserError: somebody else holds it, or has deleted the run meanwhile.
    """
    deadline = time.monotonic() + (LEAVING_S if _has_recorded_its_end(folder) else READER_S)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise UserError("run_in_use", folder=folder.path) from error
            time.sleep(0.05)
    if not folder.lock.exists() or not os.path.samestat(os.fstat(lock.fileno()), folder.lock.stat()):
        raise UserError("run_deleted", folder=folder.path)  # while this one waited for the lock


def _has_recorded_its_end(folder: Folder) -> bool:
    return folder.state.is_file() and read_state(folder).has_ended


def refuse_finished(job: Options, folder: Folder) -> None:
    """A finished run is never written over unless that was asked for; an unfinished one goes on."""
    if isinstance(job, EvalJob) and folder.state.is_file():
        before = read_state(folder)
        if before.kind != job.kind:
            raise UserError("eval.folder_of_another", folder=folder.path, kind=before.kind)
        if before.status == "done" and not job.overwrite_output_dir:
            raise UserError("output_dir_finished", folder=folder.path)
    if not isinstance(job, TrainJob) or job.overwrite_output_dir or job.resume_from_checkpoint:
        return
    is_done = folder.state.is_file() and read_state(folder).status == "done"
    foreign_weights = [
        name for name in ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
        if (folder.path / name).is_file()
    ]  # fmt: skip
    if is_done or (foreign_weights and not folder.checkpoints()):
        raise UserError("output_dir_finished", folder=folder.path)


def _clear(folder: Folder) -> None:
    """Remove what an earlier run left, so that nothing of it is taken for this one's."""
    for checkpoint in numbered(folder.path):
        remove(checkpoint)
    shutil.rmtree(folder.saving, ignore_errors=True)
    for path in (folder.events, folder.results, folder.loss_plot, folder.log, folder.ladder, folder.measured_with):
        path.unlink(missing_ok=True)


@contextmanager
def _guarded(job: Options, folder: Folder) -> Iterator[tuple[int, ...]]:
    """Start what tells of the run's end, if anybody is to be told. Gives the descriptor that the worker has to hold.

    What it reads from ends when the worker's descriptor is closed, and so with the worker, even if that is killed.
    """
    if on_finish_of(job) is None:
        yield ()
        return
    end, held = os.pipe()
    try:
        with folder.log.open("ab") as log:
            subprocess.Popen(
                guard_command(folder), stdin=end, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": _import_path()}, start_new_session=True,
            )  # fmt: skip
        yield (held,)
    finally:
        os.close(end)
        os.close(held)


def _import_path() -> str:
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))


def _spawn(
    job: Options, folder: Folder, lock_descriptor: int, owner_pid: int | None, found: Sequence[Device], *held: int
) -> None:
    """Start the worker. Its standard input is the locked file, which is empty.

    So every process below it inherits the lock too, also those that torchrun starts, which hands on nothing else; the
    run counts as alive for as long as any of them lives.

    Args:
        held: further descriptors that the worker holds while it lives.
    """
    environment = worker_environment(job, os.environ, found)
    environment["PYTHONPATH"] = _import_path()
    with folder.log.open("ab") as log:
        subprocess.Popen(
            worker_command(folder, owner_pid), stdin=lock_descriptor, stdout=log, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True, pass_fds=(lock_descriptor, *held),
        )  # fmt: skip


def leave_link(folder: Folder) -> None:
    """So that a run outside ``saves`` is listed too: a link to it in ``saves/elsewhere``."""
    target = folder.path.resolve()
    if target.is_relative_to(SAVES.resolve()):
        return
    link = link_to(target)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target, target_is_directory=True)


def link_to(target: Path) -> Path:
    """Where the link to a resolved path outside ``saves`` lies."""
    return SAVES / "elsewhere" / f"{target.name}-{hashlib.sha256(str(target).encode()).hexdigest()[:8]}"
