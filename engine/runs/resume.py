"""Going on with a run that ended early: the same job, from its last complete checkpoint."""

from __future__ import annotations

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.read import read_job, read_state

LAST = "true"
"""As a checkpoint's name: the last one that is undamaged, or none. The worker chooses, since it may read them all."""


def why_not_resumable(folder: Folder) -> tuple[str, dict] | None:
    """The key and facts of the reason why a run cannot go on, or None when it can."""
    state = read_state(folder)
    if state.kind != "train":
        return "resume_only_training", {"kind": state.kind}
    if not state.has_ended:
        return "run_in_use", {"folder": folder.path}
    if state.status == "done":
        return "resume_finished", {"folder": folder.path}
    return None


def resumed_job(folder: Folder) -> TrainJob:
    """The job that goes on with a run in its own folder; without a checkpoint it begins anew.

    Raises:
        UserError: it still runs, is finished, or is no training.
    """
    reason = why_not_resumable(folder)
    if reason:
        raise UserError(reason[0], **reason[1])
    changes = {"output_dir": str(folder.path), "overwrite_output_dir": False, "resume_from_checkpoint": LAST}
    return read_job(folder).model_copy(update=changes)
