"""What is done when a run has ended, however it ended: who is told, and what they are told. The telling is work's."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from engine.errors import Problem
from engine.options.base import Options
from engine.options.jobs import PreflightJob, TrainJob
from engine.runs.cause import cause_of
from engine.runs.folder import Folder
from engine.runs.progress import watch
from engine.runs.read import read_job, read_language
from engine.runs.redact import Redactor
from engine.words import words

ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def on_finish_of(job: Options) -> str | None:
    """Whom a job tells of its end; None: nobody."""
    is_training = isinstance(job, TrainJob) and not isinstance(job, PreflightJob)
    return (job.on_finish or None) if is_training else None


def finish_problems(job: Options, environment: Mapping[str, str]) -> list[Problem]:
    """What is wrong with ``on_finish``; its value is not repeated, for it may be secret."""
    told = on_finish_of(job)
    if told is None:
        return []
    missing = [name for name in names_in(told) if name not in environment and not name.startswith("LATHE_")]
    if missing:
        return [Problem("on_finish.variable", "on_finish", {"name": missing[0]})]
    if any(found["invalid"] is not None for found in Template.pattern.finditer(told)):
        return [Problem("on_finish.unreadable", "on_finish", {"detail": "$"})]
    if Redactor().holds_secret(told):
        return [Problem("on_finish.secret", "on_finish", {"written": "${NAME}"})]
    if ADDRESS.match(told):
        return []
    try:
        program = Template((shlex.split(told) or [""])[0]).safe_substitute(environment)
    except ValueError as error:
        return [Problem("on_finish.unreadable", "on_finish", {"detail": error})]
    return [] if shutil.which(program) else [Problem("on_finish.program", "on_finish", {"program": program})]


def names_in(told: str) -> list[str]:
    """The variables that a text takes from the environment: ``$NAME`` and ``${NAME}``."""
    names = [found["named"] or found["braced"] for found in Template.pattern.finditer(told)]
    return [name for name in names if name]


def guard_command(folder: Folder) -> list[str]:
    """What waits for the end of a run and then tells of it; its standard input ends with the worker."""
    return [sys.executable, "-m", "engine.work.finish", str(folder.path)]


def ending(folder: Folder, redactor: Redactor) -> dict[str, Any]:
    """What is told of a run that has ended: plain values, without secrets; None where something is not known."""
    progress, cause, job, language = watch(folder), cause_of(folder), read_job(folder), read_language(folder)
    has_times = progress.started_at and progress.finished_at
    status = words(f"page.status.{progress.status}", language)
    said = words("card.told", language, name=folder.name, status=status)
    error = redactor.redact(cause.sentence(language)) if cause else None
    return {
        "text": said + (f" {error}" if error else ""),
        "run": folder.name,
        "folder": str(folder.path.absolute()),
        "status": progress.status,
        "model": Path(job.model_name_or_path or "").name or None,
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": progress.loss,
        "eval_loss": progress.eval_loss,
        "seconds": round(progress.finished_at - progress.started_at, 1) if has_times else None,
        "finished_at": progress.finished_at,
        "cause": cause.kind if cause else None,
        "error": error,
    }
