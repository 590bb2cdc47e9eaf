"""What can be seen to be wrong before a start: files and folders that a job names and that are not there."""

from __future__ import annotations

from pathlib import Path

from engine.catalog.datasets import find_entry, read_rows
from engine.catalog.models import model_problem
from engine.catalog.templates import find_template
from engine.errors import Problem, UserError
from engine.options.base import Options
from engine.options.jobs import TrainJob
from engine.options.model import Model


def problems_on_disk(job: Options) -> list[Problem]:
    """Every problem that a look at the disk shows, beside its option. Heavy files are only opened, not read through."""
    found: list[Problem | None] = []
    if isinstance(job, Model):
        if not getattr(job, "gguf", None):
            found.append(model_problem(job.model_name_or_path))
        found.append(_template_problem(job))
        found += [_adapter_problem(path) for path in job.adapter_name_or_path]
    if isinstance(job, TrainJob):
        found += [_dataset_problem(job, name, "dataset") for name in job.dataset]
        found += [_dataset_problem(job, name, "eval_dataset") for name in job.eval_dataset]
    return [problem for problem in found if problem]


def _template_problem(job: Model) -> Problem | None:
    if job.template:
        try:
            find_template(job.template)
        except UserError as error:
            return Problem(error.key, "template", error.facts)
    return None


def _adapter_problem(path: str) -> Problem | None:
    if (Path(path) / "adapter_config.json").is_file():
        return None
    return Problem("adapter_missing", "adapter_name_or_path", {"path": path})


def _dataset_problem(job: TrainJob, name: str, option: str) -> Problem | None:
    """A dataset that is not registered, whose file is missing, or whose first row cannot be read."""
    try:
        next(iter(read_rows(find_entry(Path(job.dataset_dir), name))))
    except StopIteration:
        return Problem("dataset_empty", option, {"path": name})
    except UserError as error:
        return Problem(error.key, option, error.facts)
    return None
