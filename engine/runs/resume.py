"""Going on with a run: from which checkpoint, into which folder, and why not where it cannot be."""

from __future__ import annotations

import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import Problem, UserError
from engine.options.base import Options
from engine.options.command import job_from
from engine.options.jobs import EvalJob, PreflightJob, TrainJob
from engine.runs.checkpoints import STATE, damage
from engine.runs.facts import read_facts
from engine.runs.folder import Folder
from engine.runs.read import read_job, read_state
from engine.runs.saved import Saved, lacks_optimizer, saved, verify

LAST = "true"
"""As a checkpoint's name: the last one that is undamaged, or none. The worker chooses, since it may read them all."""


class Point(NamedTuple):
    """Where a run would go on.

    Args:
        step: 0 is its beginning.
        checkpoint: None: there is none that is intact.
        is_branch: in a folder of its own, since the run's own holds later checkpoints, or its result.
        is_foreign: the checkpoint lies in the folder of another run, on which this one was built.
    """

    step: int
    checkpoint: Path | None
    is_branch: bool = False
    is_foreign: bool = False

    @property
    def lacks_optimizer(self) -> bool:
        return self.checkpoint is not None and lacks_optimizer(self.checkpoint)


def why_not_resumable(
    folder: Folder, checkpoint: int | None = None, known: list[Saved] | None = None
) -> tuple[str, dict[str, Any]] | None:
    """The key and facts of the reason why a run cannot go on, or None when it can.

    Args:
        checkpoint: the step of the one that it is to go on from; None: the last one.
        known: its checkpoints, if they were looked at just now.
    """
    state = read_state(folder)
    if state.kind not in ("train", "eval"):
        return "resume_only_training", {"kind": state.kind}
    if state.is_waiting:
        return "resume.waits", {"name": folder.name}
    if not state.has_ended:
        return "run_in_use", {"folder": folder.path}
    fault = _fault_of_job(folder)
    if fault:
        return "resume.job_unreadable", {"name": folder.name, "detail": fault}
    if state.kind == "eval":
        if checkpoint is not None:
            return "resume.no_such_checkpoint", {"name": folder.name, "step": checkpoint, "known": "–"}
        return ("resume.evaluated", {"name": folder.name}) if state.status == "done" else None
    if state.status == "done" and checkpoint is None:
        found = [each for each in (saved(folder) if known is None else known) if each.is_latest]
        facts = {"folder": folder.path, "options": shlex.quote(str(folder.training_args))}
        if not found:
            return "resume_finished", facts
        return "resume.longer", {**facts, "checkpoint": shlex.quote(str(found[0].path))}
    point = point_of(folder, None, known) if checkpoint is None else None
    file = damage(point.checkpoint, reads_files=False) if point and point.is_foreign else None
    return ("resume.base_gone", {"name": folder.name, "path": point.checkpoint, "file": file}) if file else None


def point_of(folder: Folder, checkpoint: int | None = None, known: list[Saved] | None = None) -> Point:
    """Where a run goes on. What stands in the way of it is ``why_not_resumable``'s affair.

    Args:
        checkpoint: the step of the one to go on from; None: the last one that is intact.
        known: its checkpoints, if they were looked at just now.

    Raises:
        UserError: there is none of that step, or it is damaged.
    """
    found = saved(folder) if known is None else known
    if checkpoint is not None:
        return _point_at(checkpoint, found, folder)
    latest = next((each for each in found if each.is_latest), None)
    if latest:
        return Point(latest.step, latest.path)
    base = base_of(folder)
    return Point(_step_of(base), base, is_foreign=True) if base else Point(0, None)


def resumed_job(folder: Folder, checkpoint: int | None = None) -> EvalJob | TrainJob:
    """The job that goes on with a run.

    An evaluation goes on in its own folder with what is not measured yet. A training goes on from its last checkpoint
    in its own folder, and without any it begins anew. From an earlier one it goes on as another run in a folder of its
    own, so that nothing that was saved since is lost.

    Args:
        checkpoint: the step of the one to go on from; it is read through. None: the last one that is intact.

    Raises:
        UserError: it still runs, is finished, or is no training; there is no such checkpoint, or it is damaged.
        Refused: the options are no longer valid.
    """
    reason = why_not_resumable(folder, checkpoint)
    if reason:
        raise UserError(reason[0], **reason[1])
    job = read_job(folder)
    if isinstance(job, EvalJob):
        return job_from(EvalJob, {**job.values(), "output_dir": str(folder.path), "overwrite_output_dir": False}).job
    point = point_of(folder, checkpoint)
    if checkpoint is not None and point.checkpoint is not None:
        _refuse_damaged(point.checkpoint, verify(point.checkpoint), saved(folder))
    is_named = point.is_branch or point.is_foreign
    changes = {
        "output_dir": None if point.is_branch else str(folder.path),
        "overwrite_output_dir": False,
        "resume_from_checkpoint": str(point.checkpoint) if is_named else LAST,
    }
    return job_from(TrainJob, {**job.values(), **changes}).job


def base_of(folder: Folder) -> Path | None:
    """The checkpoint of another run on which this one was built; None: it began by itself.

    A run that was gone on with is asked no more for it; what its first attempts say of themselves is.
    """
    job = _job_of(folder)
    asked = _path_of(job.resume_from_checkpoint, folder) if isinstance(job, TrainJob) else None
    if asked:
        return asked
    try:
        return _base_at(folder, folder.events.stat().st_mtime_ns)
    except FileNotFoundError:
        return None  # it has not come that far


@lru_cache(maxsize=256)
def _base_at(folder: Folder, changed_ns: int) -> Path | None:
    options = [attempt.get("options") or {} for attempt in read_facts(folder).attempts]
    named = (_path_of(each.get("resume_from_checkpoint"), folder) for each in reversed(options))
    return next((path for path in named if path), None)


def checkpoint_problem(job: Options) -> Problem | None:
    """What is wrong with the checkpoint that a job names: not there, damaged, or one whose successors would be lost."""
    if not isinstance(job, TrainJob) or isinstance(job, PreflightJob):
        return None
    path = _path_of(job.resume_from_checkpoint)
    if path is None:
        return None
    option = "resume_from_checkpoint"
    file = damage(path, reads_files=False)
    if file:
        is_there = (path / STATE).is_file()
        return Problem("checkpoint_damaged" if is_there else "checkpoint_missing", option, {"path": path, "file": file})
    folder = Path(job.output_dir) if job.output_dir else None
    if folder is None or path.resolve().parent != folder.resolve():
        return None
    if job.overwrite_output_dir:
        return Problem("resume.overwritten", option, {"path": path, "folder": folder})
    later = [each.path.name for each in saved(Folder(folder)) if each.damaged is None and each.step > _step_of(path)]
    facts = {"path": path, "folder": folder, "later": ", ".join(later), "name": Folder(folder).name}
    return Problem("resume.later_lost", option, {**facts, "step": _step_of(path)}) if later else None


def _point_at(step: int, found: list[Saved], folder: Folder) -> Point:
    chosen = next((each for each in found if each.step == step), None)
    if chosen is None:
        known = ", ".join(str(each.step) for each in found) or "–"
        raise UserError("resume.no_such_checkpoint", name=folder.name, step=step, known=known)
    _refuse_damaged(chosen.path, chosen.damaged, found)
    is_last = chosen.is_latest and read_state(folder).status != "done"
    return Point(step, chosen.path, is_branch=not is_last)


def _refuse_damaged(path: Path, file: str | None, found: list[Saved]) -> None:
    """Raises: UserError, with the nearest one that is intact to its last byte."""
    if file is None:
        return
    step = _step_of(path)
    others = sorted((each for each in found if each.step != step), key=lambda each: (abs(each.step - step), each.step))
    nearest = next((each for each in others if each.damaged is None and verify(each.path) is None), None)
    if nearest is None:
        raise UserError("resume.damaged_all", path=path, file=file)
    raise UserError("resume.damaged", path=path, file=file, nearest=nearest.step)


def _step_of(checkpoint: Path) -> int:
    """By its name; one that was renamed counts as the first."""
    number = checkpoint.name.rsplit("-", 1)[-1]
    return int(number) if number.isdecimal() else 0


def _path_of(asked: str | None, folder: Folder | None = None) -> Path | None:
    """The checkpoint that an option names, unless it lies in this folder."""
    if not asked or asked.lower() in ("true", "false"):
        return None
    path = Path(asked)
    return None if folder and path.resolve().is_relative_to(folder.path.resolve()) else path


def _job_of(folder: Folder) -> Options | None:
    try:
        return read_job(folder)
    except (OSError, UserError):
        return None


def _fault_of_job(folder: Folder) -> str | None:
    """Why what was asked cannot be read; None: it can."""
    try:
        return _fault_at(folder, folder.job.stat().st_mtime_ns)
    except OSError as error:
        return f"{folder.job.name}: {error.strerror}"


@lru_cache(maxsize=512)
def _fault_at(folder: Folder, changed_ns: int) -> str | None:
    try:
        job = read_job(folder)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{folder.job.name}: {error.strerror}"
    return None if isinstance(job, EvalJob | TrainJob) else f"{folder.job.name}: {type(job).__name__}"
