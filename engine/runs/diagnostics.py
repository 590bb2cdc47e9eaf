"""One zip with all that somebody else needs to understand what happened in a run, and no secret in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.catalog.devices import devices
from engine.catalog.versions import git_state, machine, versions
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.card import card
from engine.runs.cause import cause_of
from engine.runs.facts import read_facts
from engine.runs.folder import Folder
from engine.runs.preflight import preflight
from engine.runs.preflight_words import assumption_words, disk_words, verdict_words
from engine.runs.read import read_job, read_log, read_state
from engine.runs.redact import Redactor, secrets_of

LOG_LINES = 500
LOG_BYTES = 512 * 1024
"""Of a log whose lines are very long, less than 500 lines are taken."""
OTHER_EVENTS, STEPS = 300, 50
"""How many of the last events are taken; those of steps are counted by themselves."""


def diagnose(folder: Folder, target: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Write the zip; the run's folder is only read. What cannot be found out is told in its place.

    Args:
        environment: whose secret values are taken out, wherever they stand and however they are spelled.

    Raises:
        FileNotFoundError: there is no run in the folder.
        UserError: the zip cannot be written.
    """
    read_state(folder)
    texts = {name: _told(find) for name, find in _contents(folder).items()}
    redactor = Redactor(secrets_of(environment), _spared(folder))
    for text in texts.values():
        redactor.learn(text)
    texts = {name: _without_home(redactor.redact(text)) for name, text in texts.items()}
    texts["log.txt"] = "".join(texts["log.txt"].splitlines(keepends=True)[-LOG_LINES:])
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError("file_not_written", path=target, detail=error.strerror or error) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return target


def file_name(folder: Folder, environment: Mapping[str, str] = os.environ) -> str:
    """What the zip of a run is called, if nobody says otherwise; a path's secrets are taken out of it too."""
    plain = Redactor(secrets_of(environment)).redact(folder.name)
    plain = re.sub(r"[^\w.-]+", "_", plain).strip("_")[-120:]
    return f"diagnostics-{plain}.zip"


def _contents(folder: Folder) -> dict[str, Callable[[], str]]:
    return {
        "card.md": lambda: card(folder, "en"),
        "cause.txt": lambda: _cause(folder),
        "options.yaml": lambda: folder.job.read_text(encoding="utf-8"),
        "state.json": lambda: folder.state.read_text(encoding="utf-8"),
        "log.txt": lambda: read_log(folder, LOG_BYTES),
        "events.jsonl": lambda: _events(folder),
        "versions.json": lambda: _json({"versions": versions(), "git": git_state()}),
        "devices.json": _devices,
        "preflight.txt": lambda: _preflight(folder),
    }


def _told(find: Callable[[], str]) -> str:
    """A text, or why there is none: a broken file must not hide all others."""
    try:
        return find()
    except Exception as error:
        return f"could not be found out: {type(error).__name__}: {error}\n"


def _cause(folder: Folder) -> str:
    cause = cause_of(folder)
    if cause is None:
        return f"{read_state(folder).status}\n"
    return f"{cause.kind}: {cause.error['key']}\n{cause.sentence('en')}\n{cause.advice('en')}\n"


def _events(folder: Folder) -> str:
    with folder.events.open(encoding="utf-8", errors="replace") as file:
        steps: list[str] = []
        others: list[str] = []
        for line in file:
            kept, most = (steps, STEPS) if '"current_steps"' in line else (others, OTHER_EVENTS)
            kept.append(line)
            del kept[:-most]
    return "".join([*others, *steps])


def _devices() -> str:
    free = {device.address: device.free_bytes for device in devices()}
    found = [{**each, "free_bytes": free.get(each["address"])} for each in machine()]
    return _json({"devices": found, "free_disk_bytes": shutil.disk_usage(Path.cwd()).free})


def _preflight(folder: Folder) -> str:
    job = read_job(folder)
    if not isinstance(job, TrainJob):
        return "no training\n"
    answer = preflight(job, devices())
    lines = [verdict_words(answer, "en"), *assumption_words(answer, "en"), disk_words(answer, "en")]
    return "\n".join([*lines, _json({"measured": answer.measured, "total_steps": answer.total_steps})])


def _spared(folder: Folder) -> set[str]:
    """Commits, which look like a key of wandb's."""
    facts = read_facts(folder)
    found = {state["commit"] for each in facts.attempts if (state := each.get("git"))}
    found |= {each["revision"] for each in facts.models.values() if each.get("revision")}
    return found | ({state["commit"]} if (state := git_state()) else set())


def _without_home(text: str) -> str:
    """A home folder's name is often a person's."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 3 else text


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
