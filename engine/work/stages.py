"""What differs between the stages of training: rows, model, trainer. ``train.py`` is the same for all of them.

trl is loaded only where a stage needs it: it takes seconds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainingArguments

from engine.options.jobs import TrainJob
from engine.runs.record import Recorder
from engine.work.adapters import make_trainable
from engine.work.dataset import prepare
from engine.work.download import local_model
from engine.work.fused import fuse
from engine.work.kto import KtoTrainer
from engine.work.load import apply_adapters, load_model
from engine.work.lora_linear import speed_up
from engine.work.preference import PreferenceTrainer, Reference
from engine.work.reward import RewardTrainer, load_with_head, train_head
from engine.work.supervised import SupervisedTrainer
from engine.work.token_losses import WeighedTrainer, needs_logits

TRAINERS = {
    "sft": SupervisedTrainer, "pt": SupervisedTrainer, "rm": RewardTrainer, "dpo": PreferenceTrainer, "kto": KtoTrainer,
}  # fmt: skip
REWARDED = ("grpo", "ppo")
"""Stages in which the model writes the answers itself; trl's loop does them."""


def rows_of(job: TrainJob, tokenizer: PreTrainedTokenizerBase, recorder: Recorder) -> Any:
    """What is learned from and evaluated on; has ``train`` (with ``counts``) and ``evaluation``, which may be None."""
    if job.stage in REWARDED:
        from engine.work.reinforcement import prepare_prompts

        return prepare_prompts(job, tokenizer, recorder)
    return prepare(job, tokenizer, recorder)


def model_of(
    path: str, job: TrainJob, weights: str, trained: str, device: str, tokenizer: PreTrainedTokenizerBase
) -> Any:
    """The model, ready to be trained.

    Args:
        weights, trained: dtypes of the frozen weights and of those that are trained.
    """
    dtype = getattr(torch, weights)
    if job.stage != "rm":
        model = make_trainable(load_model(path, job, dtype, device), job, trained, tokenizer)
        speed_up(model)
        if torch.device(device).type == "cpu":
            fuse(model)
        return model
    model = make_trainable(load_with_head(path, job, dtype, device, tokenizer.pad_token_id), job, trained, tokenizer)
    train_head(model, getattr(torch, trained))
    return model


def arguments_type(job: TrainJob) -> tuple[type[TrainingArguments], dict[str, Any]]:
    """The class of the trainer's arguments, and what it is told beside those of ``TrainingArguments``."""
    if job.stage not in REWARDED:
        return TrainingArguments, {}
    from trl import GRPOConfig

    from engine.work.reinforcement import grpo_settings

    return GRPOConfig, grpo_settings(job)


def trainer_of(
    job: TrainJob, model: Any, tokenizer: PreTrainedTokenizerBase, weights: str, device: str, recorder: Recorder,
    **given: Any,
) -> Any:  # fmt: skip
    """The trainer of a stage.

    Args:
        weights: dtype of a model that is not trained.
        given: what every trainer of transformers takes.
    """
    given = {"model": model, "processing_class": tokenizer, **given}
    if job.stage in REWARDED:
        from engine.work.reinforcement import GrpoTrainer, rewards_of

        return GrpoTrainer(reward_funcs=rewards_of(job, getattr(torch, weights), device), **given)
    given["pad_token_id"] = tokenizer.pad_token_id
    if needs_logits(job):
        is_held = job.weighs_tokens and job.use_asft_loss
        reference = _reference(job, model, weights, device, recorder) if is_held else None
        return WeighedTrainer(job=job, reference=reference, **given)
    if job.stage in ("dpo", "kto"):
        reference = _reference(job, model, weights, device, recorder) if job.needs_reference else None
        given |= {"job": job, "reference": reference}
    return TRAINERS[job.stage](**given)


def _reference(job: TrainJob, model: Any, weights: str, device: str, recorder: Recorder) -> Reference:
    """The model that the trained one is held against: the one named, else the trained one as it is before training.

    An adapter that is new is switched off for that; of anything else a copy is kept.
    """
    if job.ref_model and job.has_effect("ref_model"):
        path = local_model(job.ref_model, job.hub, "main", recorder, job.cache_dir)
        changed = {"quantization_bit": job.ref_model_quantization_bit, "train_from_scratch": False}
        quantized = job.model_copy(update=changed)
        other = load_model(path, quantized, getattr(torch, weights), device)
        adapters = (job.ref_model_adapters,) if job.ref_model_adapters else ()
        return Reference((apply_adapters(other, adapters) if adapters else other).requires_grad_(False))
    goes_on = job.adapter_name_or_path and not job.create_new_adapter
    if job.finetuning_type in ("lora", "oft") and not goes_on:
        return Reference()
    return Reference(copy.deepcopy(model).eval().requires_grad_(False))
