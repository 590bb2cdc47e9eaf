"""Several trainings side by side: what was asked differently, what they were made with, and what came out of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from yaml import YAMLError

from engine.errors import UserError
from engine.options.base import Options
from engine.options.command import as_text, shown_values
from engine.options.jobs import TrainJob
from engine.runs.card import OF_AN_ATTEMPT
from engine.runs.folder import Folder
from engine.runs.progress import Progress, watch
from engine.runs.read import read_job

FEWEST, MOST = 2, 12
NO_VALUE = "–"
"""Stands for an option that has no effect in a run, and for what is not known of it."""
DIGEST_LETTERS = 12
_NOTHING = object()  # equal to no value, "–" included
SAME_LOSS = {
    "loss": ("stage", "pref_loss", "dataset"),
    "eval_best": ("stage", "pref_loss", "dataset", "eval_dataset", "val_size"),
}
"""Options that must be the same for two losses to measure the same."""

Group = Literal["options", "versions", "devices", "code", "models", "datasets"]


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared.

    Args:
        place: its number among those that were chosen, from 0 on; it keeps it when another one is deleted.
        label: its name, as short as tells it from the others.
        job: what was asked; None where that cannot be read: deleted, edited by hand, of another version.
    """

    folder: Folder
    place: int
    label: str
    progress: Progress
    job: Options | None


@dataclass(frozen=True)
class Difference:
    """``name``: of an option, a package, a model or a dataset; "" where the group says it all. ``values``: of each run,
    as it is typed; ``NO_VALUE`` where it has none; None where it cannot be read."""

    group: Group
    name: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Outcome:
    """What came out of a run so far; None is what is not known.

    Args:
        loss: the last one logged.
        eval_best: step and value of the least evaluation loss.
        duration_s: from start to end; of a run that goes on, until now.
        from_step: of a run that went on from a checkpoint the step there; its duration is then that of the rest.
        tokens_per_s: since its start, without padding.
    """

    status: str
    step: int
    total_steps: int
    loss: float | None
    eval_best: tuple[float, float] | None
    duration_s: float | None
    tokens_per_s: float | None
    peak_memory_bytes: float | None
    from_step: int = 0


RANKED = {"loss": min, "eval_best": min, "duration_s": min, "tokens_per_s": max, "peak_memory_bytes": min}
"""Which of an outcome's figures can be better than another's, and which end is the better one."""


def compared(folders: Iterable[Folder], look: Callable[[Folder], Progress] = watch) -> list[Run]:
    """The runs in the given order, each once; one that has been deleted is left out.

    Args:
        look: how far each log is read: ``watch`` to its end, ``glance`` for as long as a visitor may wait.

    Raises:
        UserError: there are fewer than two or more than twelve, or one is not a training.
    """
    chosen = list(dict.fromkeys(Folder(folder.path.absolute()) for folder in folders))
    if len(chosen) > MOST:
        raise UserError("compare.too_many", count=len(chosen), most=MOST)
    found: list[tuple[int, Folder, Progress]] = []
    for place, folder in enumerate(chosen):
        try:
            progress = look(folder)
        except FileNotFoundError:
            continue
        if progress.kind != "train":
            raise UserError("compare.not_training", name=folder.name, kind=progress.kind)
        found.append((place, folder, progress))
    if len(found) < FEWEST:
        raise UserError("compare.too_few")
    labels = _labels([folder for _, folder, _ in found])
    return [
        Run(folder, place, label, progress, _job(folder))
        for (place, folder, progress), label in zip(found, labels, strict=True)
    ]


def differing_options(runs: Sequence[Run]) -> list[Difference]:
    """The options that are not the same in all runs whose job can be read, in the order of their declaration.

    Not among them is what says where a run lies and from where it went on; nor what has no effect in some of the runs
    and in the others the value that nobody needs to be told, see ``shown_values``.
    """
    said = [None if run.job is None else _with_effect(run.job) for run in runs]
    known = [values for values in said if values is not None]
    given = dict.fromkeys(name for values in known for name in values)
    # Declared ones first: what only some pass on to transformers stands at the end of each job.
    declared = [name for group in TrainJob.groups() for name in group.model_fields if name in given]
    told = [shown_values(run.job) for run in runs if run.job is not None]
    found = []
    for name in dict.fromkeys((*declared, *given)):
        values = [each.get(name, _NOTHING) for each in known]
        if name in OF_AN_ATTEMPT or all(value == values[0] for value in values):
            continue
        effective = [value for value in values if value is not _NOTHING]
        if any(value != effective[0] for value in effective) or any(name in each for each in told):
            found.append(Difference("options", name, tuple(_typed(each, name) for each in said)))
    return found


def differing_facts(runs: Sequence[Run]) -> list[Difference]:
    """What the runs were made with, where two that tell of the same thing do not tell the same."""
    told = [_made_with(run.progress) for run in runs]
    found = []
    for group, name in dict.fromkeys(key for facts in told for key in facts):
        values = tuple(facts.get((group, name), NO_VALUE) for facts in told)
        if len(set(values) - {NO_VALUE}) > 1:
            found.append(Difference(group, name, values))
    return found


def outcome(run: Run) -> Outcome:
    progress = run.progress
    evaluated, memory = (progress.curves.get(name) for name in ("eval_loss", "memory_bytes"))
    peak = memory.greatest if memory else None
    told_peak = (progress.result or {}).get("peak_memory_bytes")
    return Outcome(
        status=progress.status, step=progress.step, total_steps=progress.total_steps, loss=progress.loss,
        eval_best=evaluated.least if evaluated else None, duration_s=_duration(progress),
        tokens_per_s=progress.tokens_per_s, peak_memory_bytes=peak[1] if peak else told_peak,
        from_step=(attempts[-1].get("from_step") or 0) if (attempts := progress.facts.attempts) else 0,
    )  # fmt: skip


def best(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> dict[str, set[int]]:
    """Of each ranked figure the indices of the runs that have the best one; none where it would say nothing.

    Losses are ranked only where they measure the same, see ``not_ranked``; durations only of runs that
    have done the same number of steps in one go.
    """
    found = {}
    for name, better in RANKED.items():
        values = {index: value for index, each in enumerate(outcomes) if (value := figure(each, name)) is not None}
        if name == "duration_s":
            values = {index: value for index, value in values.items() if _was_done_at_once(outcomes[index])}
            is_ranked = len({outcomes[index].step for index in values}) == 1
        else:
            is_ranked = name not in SAME_LOSS or not not_ranked(runs, name)
        values = {index: value for index, value in values.items() if math.isfinite(value)}
        top = better(values.values()) if is_ranked and len(set(values.values())) > 1 else None
        found[name] = {index for index, value in values.items() if value == top}
    return found


def not_ranked(runs: Sequence[Run], name: str) -> list[str]:
    """The options for whose sake a loss of these runs is not to be compared; [""] where not all jobs can be read."""
    jobs = [run.job for run in runs]
    if any(job is None for job in jobs):
        return [""]
    said = [_with_effect(job) for job in jobs if job is not None]
    return [option for option in SAME_LOSS[name] if any(each.get(option) != said[0].get(option) for each in said)]


def figure(each: Outcome, name: str) -> float | None:
    """A ranked figure as a number."""
    value = getattr(each, name)
    return value[1] if isinstance(value, tuple) else value


def _typed(said: Mapping[str, Any] | None, name: str) -> str | None:
    if said is None or name not in said:
        return None if said is None else NO_VALUE
    return as_text(said[name]) or '""'


def _with_effect(job: Options) -> dict[str, Any]:
    """The values of a job but for those that another one's value switches off."""
    declared = type(job).model_fields
    return {name: value for name, value in job.values().items() if name not in declared or job.has_effect(name)}


def _made_with(progress: Progress) -> dict[tuple[Group, str], str]:
    """What a run's events say of programs, machine and data; what is not told is left out."""
    facts = progress.facts
    told: dict[tuple[Group, str], Any] = {}
    if facts.attempts:
        last = facts.attempts[-1]
        told |= {("versions", name): number for name, number in (last.get("versions") or {}).items()}
        if code := last.get("git"):
            told["code", ""] = code["commit"][:DIGEST_LETTERS] + ("-dirty" if code["changed"] else "")
    told["devices", ""] = facts.others.get("device")
    for group, known in (("models", facts.models), ("datasets", facts.datasets)):
        told |= {(group, name): str(each.get("sha256") or "")[:DIGEST_LETTERS] for name, each in known.items()}
    return {key: str(value) for key, value in told.items() if value}


def _was_done_at_once(each: Outcome) -> bool:
    return each.status == "done" and not each.from_step


def _duration(progress: Progress) -> float | None:
    if progress.started_at is None or progress.status == "lost":
        return progress.elapsed_s
    return (progress.finished_at or time.time()) - progress.started_at


def _labels(folders: Sequence[Folder]) -> list[str]:
    """The last parts of the names, as many as tell the runs apart."""
    parts = [folder.name.split("/") for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-count:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [folder.name for folder in folders]


def _job(folder: Folder) -> Options | None:
    try:
        return _job_at(folder, folder.job.stat().st_mtime_ns)
    except (OSError, UserError, YAMLError, LookupError, TypeError, ValueError, AttributeError):
        return None


@lru_cache(maxsize=256)
def _job_at(folder: Folder, changed_ns: int) -> Options:
    """Read once for each time the file was written: PyYAML takes milliseconds."""
    return read_job(folder)
