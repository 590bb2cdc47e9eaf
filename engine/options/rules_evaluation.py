"""What an evaluation needs, and what does not go together in it: small pure functions, as in ``rules.py``."""

from __future__ import annotations

import re

from engine.errors import Problem
from engine.options.evaluation import METRICS
from engine.options.jobs import EvalJob

SPLITS = ("test", "validation", "train")
"""Of a choice task, as its ``<folder>_<split>`` names them."""


def evaluation_has_questions(job: EvalJob) -> Problem | None:
    return None if job.dataset or job.eval_dataset or job.task else Problem("eval.nothing_to_ask", "dataset")


def evaluation_is_of_one_kind(job: EvalJob) -> Problem | None:
    both = job.task and (job.dataset or job.eval_dataset)
    return Problem("eval.task_and_dataset", "task", {"task": job.task}) if both else None


def evaluation_does_something(job: EvalJob) -> Problem | None:
    answers = job.do_predict and job.has_effect("do_predict")
    return None if job.task or job.do_eval or answers else Problem("eval.nothing_to_do", "do_eval")


def task_names_a_split(job: EvalJob) -> Problem | None:
    folder, _, split = (job.task or "").rpartition("_")
    wrong = job.task and (not folder or split not in SPLITS)
    return Problem("eval.task_unknown", "task", {"task": job.task, "splits": ", ".join(SPLITS)}) if wrong else None


def metrics_are_known(job: EvalJob) -> Problem | None:
    unknown = [name for name in job.metrics if name not in METRICS]
    facts = {"unknown": ", ".join(unknown), "known": ", ".join(METRICS)}
    return Problem("eval.metric_unknown", "metrics", facts) if unknown else None


def pattern_can_be_read(job: EvalJob) -> Problem | None:
    try:
        re.compile(job.answer_pattern or "")
    except re.error as error:
        return Problem("eval.pattern", "answer_pattern", {"pattern": job.answer_pattern, "detail": error})
    return None


EVAL_RULES = (
    evaluation_has_questions, evaluation_is_of_one_kind, evaluation_does_something, task_names_a_split,
    metrics_are_known, pattern_can_be_read,
)  # fmt: skip
