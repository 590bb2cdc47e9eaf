"""Options under which commands for LLaMA-Factory are written: what is called otherwise here, and what does not exist.

The names that both share need nothing here. ``reference_options.yaml`` holds the others, each with its reason.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.errors import Problem
from engine.options.base import Options
from engine.options.jobs import ApiJob, ChatJob, EvalJob, ExportJob, TrainJob
from engine.options.training import further_training_arguments
from engine.options.yaml_text import read_value

ANY = "any"
PRIVATE = ("secret", "notices", "openmind")
"""Reasons of options whose values are not to be repeated."""


class Missing(NamedTuple):
    """An option that Lathe does not have.

    Args:
        reason: ``errors.reference.<reason>`` says why; of a secret: "secret.", and the variable it comes from.
        neutral: the value, or the list of values, at which it changes nothing; "any": at each.
    """

    reason: str
    neutral: Any


@lru_cache(maxsize=1)
def reference_options() -> dict[str, Missing]:
    """By name."""
    by_reason = yaml.safe_load(Path(__file__).with_name("reference_options.yaml").read_text(encoding="utf-8"))
    return {
        name: Missing(reason, neutral) for reason, options in by_reason.items() for name, neutral in options.items()
    }


def missing_problem(name: str, value: Any) -> Problem:
    """A note where an option that does not exist changes nothing at this value, else why it is refused.

    The value of a secret is not repeated.
    """
    reason, neutral = reference_options()[name]
    if is_same(value, neutral):
        return Problem("reference_option_ignored", name, {"option": name}, is_warning=True)
    kind, _, variable = reason.partition(".")
    if kind in PRIVATE:
        return Problem(f"reference.{kind}", name, {"option": name, "variable": variable})
    return Problem(f"reference.{reason}", name, {"option": name, "value": value})


def in_our_words(job_type: type[Options], values: dict[str, Any]) -> dict[str, Any]:
    """The same values under our names, where ours differ."""
    if job_type is ApiJob and values.get("infer_backend") == "vllm":
        return {"api_engine": "vllm"} | {name: value for name, value in values.items() if name != "infer_backend"}
    if issubclass(job_type, EvalJob):
        return _of_an_evaluation(dict(values))
    if not issubclass(job_type, TrainJob):
        return values
    values = dict(values)
    ratio = values.pop("warmup_ratio", None)
    if not is_same(ratio, None):
        values["warmup_steps"] = ratio  # below 1 it is a share of all steps; it outdoes warmup_steps there too
    if "enable_liger_kernel" in values:
        values.setdefault("use_liger_kernel", values.pop("enable_liger_kernel"))
    if "do_train" not in values and _is_true(values.get("do_eval")):
        values["do_train"] = False  # there nothing is trained unless it is asked for
    return values


def is_evaluation(values: dict[str, Any]) -> bool:
    """Whether a command to ``train`` trains nothing, and evaluates or answers a dataset instead."""
    asked = any(_is_true(values.get(name)) for name in ("do_eval", "do_predict"))
    return asked and not _is_true(values.get("do_train"))


def as_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    """The values of such a command for an evaluation: what is not asked for there is not done."""
    return {"do_eval": False, "do_predict": False, **values}


def _of_an_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    for theirs, ours in (("batch_size", "per_device_eval_batch_size"), ("save_dir", "output_dir")):
        if theirs in values:
            values.setdefault(ours, values.pop(theirs))
    if _is_true(values.get("predict_with_generate")):
        del values["predict_with_generate"]  # answers are never made otherwise here
    return values


def is_for_training(job_type: type[Options], name: str) -> bool:
    """Whether a chat or an export is told something about the training before it, which changes nothing by then."""
    if job_type not in (ChatJob, ApiJob, EvalJob, ExportJob) or name in job_type.model_fields:
        return False
    if job_type is EvalJob and name in further_training_arguments():
        return True
    about_model = ("model", "quantization")  # new tokens come with the adapter
    return any(name in group.model_fields for group in TrainJob.groups() if group.__name__.lower() not in about_model)


def is_same(value: Any, neutral: Any) -> bool:
    """Whether a typed value says what the neutral one says: "False" and false, "16" and 16, "none" and null."""
    if neutral == ANY:
        return True
    if isinstance(neutral, list):
        return any(is_same(value, each) for each in neutral)
    if value is None or neutral is None:
        return str(value).lower() in ("none", "null", "") and neutral is None
    return read_value(str(value)) == neutral or str(value) == str(neutral)


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on")
