"""What can be seen to be wrong before a start: files and folders that a job names and that are not there."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from engine.catalog.choice_tasks import read_task
from engine.catalog.datasets import find_entry, read_rows
from engine.catalog.modelfile import read_modelfile
from engine.catalog.models import model_problem
from engine.catalog.packages import package_problems
from engine.catalog.rendering import named_template
from engine.catalog.stages import stage_problem
from engine.errors import Problem, UserError
from engine.options.base import Options
from engine.options.jobs import ChatJob, EvalJob, GgufJob, OllamaJob, TrainJob
from engine.options.model import Model

READ_THROUGH_BYTES = 16 * 2**20
"""A file of up to this size is read to its end before a start, in some tenths of a second; of others only a row is."""


def problems_on_disk(job: Options) -> list[Problem]:
    """Every problem that a look at the disk shows, beside its option. Heavy files are only opened, not read through."""
    found: list[Problem | None] = []
    if isinstance(job, Model):
        if not getattr(job, "gguf", None) and not getattr(job, "ollama", None):
            problem = model_problem(job.model_name_or_path)
            becomes_a_file = isinstance(job, GgufJob) and problem and problem.key == "model_is_adapter"
            found.append(None if becomes_a_file else problem)
        found.append(_template_problem(job))
        if isinstance(job, ChatJob | EvalJob | GgufJob):
            found += [_scoring_problem(job.model_name_or_path, "model_name_or_path")]
            found += [_scoring_problem(path, "adapter_name_or_path") for path in job.adapters]
        found += [_adapter_problem(path) for path in job.adapters]
    if isinstance(job, OllamaJob):
        found += [_gguf_problem(job), _modelfile_problem(job)]
    if isinstance(job, TrainJob):
        found += package_problems(job)
    if isinstance(job, EvalJob):
        found.append(_task_problem(job))
    if isinstance(job, EvalJob | TrainJob):
        found += [_dataset_problem(job, name, "dataset") for name in job.dataset]
        found += [_dataset_problem(job, name, "eval_dataset") for name in job.eval_dataset]
    return [problem for problem in found if problem]


def _template_problem(job: Model) -> Problem | None:
    """A template or a tool format that does not exist."""
    try:
        named_template(job)
    except UserError as error:
        return Problem(error.key, "tool_format" if error.key.startswith("tool_format") else "template", error.facts)
    return None


def _gguf_problem(job: OllamaJob) -> Problem | None:
    """A file that is not there, or begins as no .gguf file does."""
    path = Path(job.gguf or "").expanduser()
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError:
        return Problem("ollama.gguf_missing", "gguf", {"path": path})
    return None if is_gguf else Problem("ollama.no_gguf", "gguf", {"path": path})


def _modelfile_problem(job: OllamaJob) -> Problem | None:
    """A Modelfile that is not there, or says what cannot be sent."""
    if not job.modelfile:
        return None
    try:
        read_modelfile(Path(job.modelfile).expanduser())
    except UserError as error:
        return Problem(error.key, "modelfile", error.facts)
    return None


def _adapter_problem(path: str) -> Problem | None:
    if (Path(path) / "adapter_config.json").is_file():
        return None
    return Problem("adapter_missing", "adapter_name_or_path", {"path": path})


def _scoring_problem(path: str | None, option: str) -> Problem | None:
    """A reward model where one that answers is needed."""
    said: dict[str, Any] = {}
    for name in ("config.json", "adapter_config.json"):
        try:
            said |= json.loads((Path(path or "") / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # what is missing or broken is said elsewhere
    kinds = said.get("architectures") or ()
    scores = said.get("task_type") == "SEQ_CLS" or any(kind.endswith("ForSequenceClassification") for kind in kinds)
    return Problem("reward_model_no_answers", option, {"path": path}) if scores else None


def _task_problem(job: EvalJob) -> Problem | None:
    """A choice task that is not there, or in which a row cannot be read."""
    try:
        if job.task:
            read_task(Path(job.task_dir).expanduser(), job.task, job.max_samples)
    except UserError as error:
        return Problem(error.key, "task", error.facts)
    return None


def _dataset_problem(job: EvalJob | TrainJob, name: str, option: str) -> Problem | None:
    """A dataset that is not registered, whose file is missing, or in which a row cannot be read."""
    try:
        entry = find_entry(Path(job.dataset_dir), name)
        wrong = stage_problem(entry, job.stage, option)
        if wrong:
            return wrong
        if isinstance(job, EvalJob) and entry.kind == "text" and job.do_predict and job.stage == "sft":
            return Problem("eval.text_has_no_answers", option, {"dataset": name})
        if not entry.is_remote:  # else it is fetched when the job starts
            is_small = entry.path.is_file() and entry.path.stat().st_size <= READ_THROUGH_BYTES
            for _ in islice(read_rows(entry), None if is_small else 1):
                pass
    except UserError as error:
        return Problem(error.key, option, error.facts)
    return None
