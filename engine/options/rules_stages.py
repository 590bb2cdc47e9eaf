"""What each stage of training asks of other options: small pure functions, as in ``rules.py``."""

from __future__ import annotations

import re

from engine.errors import Problem
from engine.options.jobs import TrainJob

REWARDS = ("exact_match", "json_valid")
"""Reward functions without an argument; ``regex:`` has one."""


def packing_is_for_texts(job: TrainJob) -> Problem | None:
    wrong = (job.packing or job.neat_packing) and job.stage not in ("sft", "pt")
    return Problem("packing_stage", "packing", {"stage": job.stage}) if wrong else None


def reference_is_used(job: TrainJob) -> Problem | None:
    idle = job.stage == "dpo" and job.ref_model and not job.needs_reference
    return Problem("ref_model_unused", "ref_model", {"loss": job.pref_loss}, is_warning=True) if idle else None


def reference_adapters_have_a_model(job: TrainJob) -> Problem | None:
    said = job.has_effect("ref_model") and (job.ref_model_adapters or job.ref_model_quantization_bit)
    return Problem("ref_model_missing", "ref_model") if said and not job.ref_model else None


def judged_beside_others(job: TrainJob) -> Problem | None:
    """How far the model is from its begin is measured on answers to other prompts of the same step."""
    alone = job.per_device_train_batch_size * job.gradient_accumulation_steps < 2
    return (
        Problem("kto_alone", "per_device_train_batch_size", is_warning=True) if job.stage == "kto" and alone else None
    )


def ppo_is_done_by_grpo(job: TrainJob) -> Problem | None:
    return Problem("ppo_by_grpo", "stage", is_warning=True) if job.stage == "ppo" else None


def answers_are_rewarded(job: TrainJob) -> Problem | None:
    missing = _is_rewarded(job) and not job.reward_functions and not job.reward_model
    return Problem("rewards_missing", "reward_functions", {"stage": job.stage}) if missing else None


def rewards_are_known(job: TrainJob) -> Problem | None:
    for name in job.reward_functions if _is_rewarded(job) else ():
        kind, colon, pattern = name.partition(":")
        if name not in REWARDS and not (kind == "regex" and colon):
            return Problem("reward_function_unknown", "reward_functions", {"name": name})
        try:
            re.compile(pattern)
        except re.error as error:
            return Problem("reward_regex", "reward_functions", {"pattern": pattern, "detail": str(error)})
    return None


def rewards_are_weighed(job: TrainJob) -> Problem | None:
    if not _is_rewarded(job) or not job.reward_weights:
        return None
    count = len(job.reward_functions) + bool(job.reward_model)
    try:
        weights = [float(weight) for weight in job.reward_weights]
    except ValueError:
        weights = []
    facts = {"given": ", ".join(job.reward_weights), "count": count}
    return Problem("reward_weights", "reward_weights", facts) if len(weights) != count else None


def groups_are_whole(job: TrainJob) -> Problem | None:
    """The answers to a prompt are compared with each other, so that all of them belong to one step."""
    together = job.per_device_train_batch_size * job.gradient_accumulation_steps
    if not _is_rewarded(job) or together % job.num_generations == 0:
        return None
    return Problem("group_incomplete", "num_generations", {"count": job.num_generations, "together": together})


def rewarded_rows_are_known(job: TrainJob) -> Problem | None:
    wrong = _is_rewarded(job) and job.streaming
    return Problem("rewards_streaming", "streaming", {"stage": job.stage}) if wrong else None


TRAIN_RULES = (
    packing_is_for_texts, reference_is_used, reference_adapters_have_a_model, judged_beside_others,
    ppo_is_done_by_grpo, answers_are_rewarded, rewards_are_known, rewards_are_weighed, groups_are_whole,
    rewarded_rows_are_known,
)  # fmt: skip


def _is_rewarded(job: TrainJob) -> bool:
    return job.stage in ("grpo", "ppo")
