"""Before a training: the lengths of its rows, and two real steps on the longest of them, measured."""

from __future__ import annotations

import math
import time
from typing import Any

from torch.utils.data import Subset
from transformers import TrainerCallback, set_seed

from engine.catalog.disk import rows_of_a_step, total_steps
from engine.catalog.memory import RowLengths
from engine.errors import UserError
from engine.options.jobs import PreflightJob
from engine.runs.record import Recorder
from engine.work.dataset import Rows, remove_rows
from engine.work.download import local_model
from engine.work.load import load_tokenizer
from engine.work.packing import Packed
from engine.work.peak import peak_memory_bytes
from engine.work.row_lengths import longest_first, row_lengths
from engine.work.stages import rows_of
from engine.work.train import ready

STEPS = 2
"""The first warms up, the second is timed; the optimizer's state is there from the second on."""


def run(job: PreflightJob, recorder: Recorder) -> dict[str, Any]:
    """Find out what can be found out before a training.

    Returns:
        ``lengths`` of the rows (None: not known), and after steps ``measured``: see :func:`try_steps`.

    Raises:
        UserError: whatever would stop the training itself; the loss of a step is not a number.
    """
    try:
        return try_steps(job, recorder) if job.smoke else {"lengths": _plain(count_lengths(job, recorder))}
    finally:
        remove_rows(recorder.folder)


def count_lengths(job: PreflightJob, recorder: Recorder) -> RowLengths | None:
    """Tokenize the rows as the training will."""
    set_seed(job.seed)
    path = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    recorder.phase("loading_tokenizer")
    return row_lengths(rows_of(job, load_tokenizer(path, job), recorder).train)


def try_steps(job: PreflightJob, recorder: Recorder) -> dict[str, Any]:
    """Take two optimizer steps on the longest rows. Nothing is saved.

    Returns:
        Under ``measured``: ``peak_memory_bytes``, ``start_s`` (until the first step), ``first_step_s``, ``step_s`` (of
        the second), ``tokens`` of a step, ``losses`` of both, ``total_steps`` and ``remaining_s`` (at most, for all
        steps) of the whole training where they are known; ``is_checkpointed``.
    """
    began = time.monotonic()
    found: list[RowLengths | None] = []

    def longest(rows: Any) -> Any:
        found.append(row_lengths(rows))
        if not isinstance(rows, Rows | Packed):
            return rows
        return Subset(rows, longest_first(rows)[: rows_of_a_step(job)])

    trial = job.model_copy(
        update={
            "output_dir": str(recorder.folder.path), "max_steps": STEPS, "save_strategy": "no", "eval_strategy": "no",
            "logging_steps": 1, "report_to": ("none",),
        }
    )  # fmt: skip
    prepared = ready(trial, recorder, longest)
    device, trainer = prepared.device, prepared.trainer
    steps = Steps()
    trainer.add_callback(steps)
    recorder.phase("trying_steps")
    trainer.train()
    recorder.check_stop()
    if not all(map(math.isfinite, steps.losses)):
        raise UserError("preflight.loss_not_finite", losses=", ".join(f"{loss:g}" for loss in steps.losses))
    lengths = found[0]
    measured = {
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": device.name,
        "start_s": round(steps.began[0] - began, 2),
        "first_step_s": round(steps.took[0], 3),
        "step_s": round(steps.took[-1], 3),
        "losses": steps.losses,
        "is_checkpointed": bool(trainer.args.gradient_checkpointing),
    }
    return {"lengths": _plain(lengths), "measured": measured | _whole_training(job, lengths, steps.took[-1])}


def _whole_training(job: PreflightJob, lengths: RowLengths | None, step_s: float) -> dict[str, Any]:
    """How long all steps take: the measured time for each token, times all tokens.

    The longest rows need the most time for each token, so this is more than it will be, not less.
    """
    steps = total_steps(job, lengths)
    if lengths is None or steps is None or len(lengths.longest) < min(rows_of_a_step(job), lengths.rows):
        return {}
    tokens = sum(row.tokens for row in lengths.longest[: rows_of_a_step(job)])
    mean = lengths.tokens / lengths.rows * min(rows_of_a_step(job), lengths.rows)
    return {"tokens": tokens, "total_steps": steps, "remaining_s": round(step_s * min(1.0, mean / tokens) * steps, 1)}


class Steps(TrainerCallback):
    """When each step began, how long it took, and its loss."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.took: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began.append(time.monotonic())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.took.append(time.monotonic() - self.began[-1])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def _plain(lengths: RowLengths | None) -> dict[str, Any] | None:
    return lengths.plain() if lengths else None
