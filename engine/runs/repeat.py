"""The same training once more in a new folder; and what has changed since then, so that it may come out otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.datasets import find_entry
from engine.catalog.digests import data_facts, model_facts
from engine.catalog.rows import files_of
from engine.catalog.versions import git_state, machine, versions
from engine.errors import Problem, UserError
from engine.options.command import as_text
from engine.options.jobs import TrainJob
from engine.runs.card import changes
from engine.runs.facts import Facts, read_facts
from engine.runs.folder import Folder
from engine.runs.progress import watch
from engine.runs.read import read_job, read_state
from engine.runs.resume import base_of


class Repeat(NamedTuple):
    """A job that does a run again, and why it may come out otherwise.

    Args:
        refusals: other data, or another model: it would be another training.
        warnings: other versions, another machine, and what could not be compared.
    """

    job: TrainJob
    refusals: list[Problem]
    warnings: list[Problem]


def repeated_job(folder: Folder) -> Repeat:
    """The job of a run, to be done again from its beginning in a folder of its own.

    Data and models that lie here are read and compared with what the run says of its own.

    Raises:
        UserError: the run is no training.
        Refused: what was asked cannot be read by this version.
    """
    state = read_state(folder)
    if state.kind != "train":
        raise UserError("repeat.only_training", kind=state.kind)
    facts, job = read_facts(folder), read_job(folder)
    found = [*_data(facts, job), *_models(facts), *_made_with(facts)]
    again: dict[str, Any] = {}
    base = facts.models.get("model_name_or_path", {})
    if base.get("revision") and not Path(str(job.model_name_or_path)).exists():
        again["model_revision"] = base["revision"]  # a hub's main branch may have moved on
    return Repeat(
        anew(job, folder).model_copy(update=again),
        [problem for problem in found if not problem.is_warning],
        [problem for problem in found if problem.is_warning],
    )


def cloned_job(folder: Folder) -> TrainJob:
    """What was asked of a run, to be looked at, changed and asked again; nothing is compared.

    Raises:
        UserError: the run is no training, or has been deleted; what was asked cannot be read (by this version).
    """
    try:
        kind = read_state(folder).kind
        job = read_job(folder)
    except FileNotFoundError as error:
        raise UserError("run_unknown", name=folder.name) from error
    if not isinstance(job, TrainJob) or kind != "train":
        raise UserError("repeat.only_training", kind=kind)
    return anew(job, folder)


def anew(job: TrainJob, folder: Folder) -> TrainJob:
    """The job in a folder of its own, from the same beginning: a checkpoint of its own is no part of that."""
    built_on = base_of(folder)
    begin = {"resume_from_checkpoint": str(built_on) if built_on else None}
    return job.model_copy(update={"output_dir": None, "overwrite_output_dir": False, **begin})


def first_difference(one: Folder, other: Folder) -> int | None:
    """The first step at which two runs do not log the very same loss; None: they agree in all of them."""
    left, right = _losses(one), _losses(other)
    return next((step for step in sorted(left.keys() | right.keys()) if left.get(step) != right.get(step)), None)


def _losses(folder: Folder) -> dict[int, float]:
    return dict(watch(folder).curves.get("loss", ()))


def _data(facts: Facts, job: TrainJob) -> list[Problem]:
    problems = []
    for name in dict.fromkeys((*job.dataset, *job.eval_dataset)):
        option = "dataset" if name in job.dataset else "eval_dataset"
        then = facts.datasets.get(name, {})
        try:
            path = find_entry(Path(job.dataset_dir), name).path
            files = files_of(path) if path and "bytes" in then else []
        except UserError as error:
            problems.append(Problem(error.key, option, error.facts))
            continue
        if not files:
            problems.append(Problem("repeat.not_compared", option, {"name": name}, is_warning=True))
            continue
        now = data_facts(files, is_read=then.get("sha256") is not None)
        if any(now[key] != then.get(key) for key in now):
            sizes = {"then": then["bytes"], "now": now["bytes"]}
            problems.append(Problem("repeat.data_differs", option, {"name": name, **sizes}))
        elif now["sha256"] is None:
            problems.append(Problem("repeat.not_compared", option, {"name": name}, is_warning=True))
    return problems


def _models(facts: Facts) -> list[Problem]:
    problems = []
    for role, then in facts.models.items():
        folder, option = Path(then["path"]), role.partition(" ")[0]
        if not folder.is_dir():
            problems.append(Problem("repeat.not_compared", option, {"name": then["name"]}, is_warning=True))
        elif model_facts(folder)["sha256"] != then["sha256"]:
            problems.append(Problem("repeat.model_differs", option, {"name": then["name"], "path": folder}))
    return problems


def _made_with(facts: Facts) -> list[Problem]:
    if not facts.attempts:
        return [Problem("repeat.nothing_known", is_warning=True)]
    last = facts.attempts[-1]
    found: list[tuple[str, dict[str, Any]]] = []
    now = versions()
    then = {name: number for name, number in last["versions"].items() if name != "cuda"}  # which torch alone knows
    if other := changes(then, now):
        found.append(("repeat.versions_differ", {"changes": _listed(other)}))
    if [_hardware(each) for each in last["machine"]] != [_hardware(each) for each in machine()]:
        found.append(("repeat.machine_differs", {"then": _names(last["machine"]), "now": _names(machine())}))
    if last.get("git") != git_state():
        found.append(("repeat.code_differs", {}))
    used = facts.others.get("device")
    if any(each["name"] == used and each["address"] != "cpu" for each in last["machine"]):
        found.append(("repeat.on_gpu", {"device": used}))
    midway = [
        changes(one["options"], two["options"])
        for one, two in zip(facts.attempts, facts.attempts[1:], strict=False)
    ]  # fmt: skip
    if any(midway):
        found.append(("repeat.changed_midway", {"changes": "; ".join(_listed(each) for each in midway if each)}))
    return [Problem(key, None, told, is_warning=True) for key, told in found]


def _hardware(device: dict[str, Any]) -> tuple[str, str, int]:
    return device["address"], device["name"], device["cores"]


def _names(devices: list[dict[str, Any]]) -> str:
    return ", ".join(each["name"] for each in devices)


def _listed(differing: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {as_text(old)} → {as_text(new)}" for name, (old, new) in differing.items())
