"""Checkpoints in words, the same on the page and in the terminal: what one holds, how it stands, how a run goes on."""

from __future__ import annotations

from typing import NamedTuple

from engine.errors import UserError
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.resume import Point, point_of, why_not_resumable
from engine.runs.saved import Saved, saved
from engine.words import words


class Outlook(NamedTuple):
    """Whether a run can go on, and from where, or why not; ``point`` is None where it cannot."""

    point: Point | None
    text: str


def held(checkpoint: Saved, language: str) -> str:
    """What is in it."""
    names = []
    for name in checkpoint.holds:
        key = "random_of" if name == "random" and checkpoint.ranks > 1 else name
        names.append(words(f"checkpoints.in_it.{key}", language, ranks=checkpoint.ranks))
    return ", ".join(names) or "–"


def standing_of(checkpoint: Saved) -> str:
    """Whether it is intact, in one word: the end of a key below ``checkpoints.is``."""
    if checkpoint.damaged:
        return "damaged"
    if not checkpoint.has_list:
        return "foreign"
    if not checkpoint.is_verified:
        return "complete"
    return "partly_verified" if checkpoint.unsummed else "verified"


def standing(checkpoint: Saved, language: str) -> str:
    facts = {"file": checkpoint.damaged, "count": checkpoint.unsummed}
    return words(f"checkpoints.is.{standing_of(checkpoint)}", language, **facts)


def outlook(folder: Folder, checkpoint: int | None, language: str, known: list[Saved] | None = None) -> Outlook:
    """What Resume would do, or why it cannot.

    Args:
        checkpoint: the step of the one that was chosen; None: none was.
        known: the run's checkpoints, if they were looked at just now.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    found = saved(folder) if known is None else known
    reason = why_not_resumable(folder, checkpoint, found)
    if reason:
        return _cannot(UserError(reason[0], **reason[1]), language)
    if read_state(folder).kind == "eval":
        return Outlook(Point(0, None), words("checkpoints.evaluates", language))
    try:
        point = point_of(folder, checkpoint, found)
    except UserError as error:
        return _cannot(error, language)
    key = "branches" if point.is_branch else "goes_on" if point.checkpoint else "begins_anew"
    said = [words(f"checkpoints.{key}", language, step=point.step, name=folder.name)]
    replaced = [each.path.name for each in found if each.damaged and each.step > point.step and not point.is_branch]
    if replaced:
        said.append(words("checkpoints.replaces", language, names=", ".join(replaced)))
    if point.lacks_optimizer:
        said.append(words("errors.resume.weights_only", language, path=point.checkpoint))
    return Outlook(point, " ".join(said))


def _cannot(error: UserError, language: str) -> Outlook:
    return Outlook(None, words("checkpoints.cannot", language, reason=error.text(language)))
