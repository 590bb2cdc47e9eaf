"""Which optimizers, losses and trackers go with which other options: small pure functions, as in ``rules.py``."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

import yaml

from engine.errors import Problem
from engine.options.jobs import TrainJob
from engine.options.objective import LOSSES

TRACKERS = {
    "none": "", "all": "", "tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow",
    "swanlab": "swanlab", "comet_ml": "comet-ml", "clearml": "clearml", "codecarbon": "codecarbon",
    "dvclive": "dvclive", "neptune": "neptune", "azure_ml": "azureml-core", "dagshub": "dagshub", "flyte": "flytekit",
    "kubeflow": "",
}  # fmt: skip
"""Names that ``report_to`` takes → the package that brings each."""

FIXED = {
    "remove_unused_columns": True, "prediction_loss_only": False, "label_names": None, "length_column_name": "length",
    "include_for_metrics": [], "batch_eval_metrics": False, "eval_do_concat_batches": True,
}  # fmt: skip
"""Fields of ``TrainingArguments`` that say something of batches or predictions which this engine does not have."""

ON_WHOLE_WEIGHTS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini")


@lru_cache(maxsize=1)
def optimizer_names() -> dict[str, str]:
    """Names that ``optim`` takes → the package that brings each; "" for those that need none."""
    return yaml.safe_load(Path(__file__).with_name("optimizer_names.yaml").read_text(encoding="utf-8"))


def optimizer_is_known(job: TrainJob) -> Problem | None:
    return _unknown("optim", job.optim, "optimizer_unknown", optimizer_names())


def trackers_are_known(job: TrainJob) -> Problem | None:
    found = [_unknown("report_to", name, "tracker_unknown", TRACKERS) for name in job.report_to]
    return next((problem for problem in found if problem), None)


def one_optimizer(job: TrainJob) -> Problem | None:
    chosen = job.optimizers_by_switch + (["loraplus_lr_ratio"] if job.loraplus_lr_ratio else [])
    wrong = len(chosen) > 1
    return Problem("two_optimizers", chosen[1], {"first": chosen[0], "second": chosen[1]}) if wrong else None


def optimizer_of_whole_weights(job: TrainJob) -> Problem | None:
    chosen = [name for name in ON_WHOLE_WEIGHTS if getattr(job, name)]
    wrong = chosen and job.finetuning_type in ("lora", "oft")
    facts = {"option": chosen[0], "method": job.finetuning_type} if wrong else {}
    return Problem("optimizer_needs_whole_weights", chosen[0], facts) if wrong else None


def optimizer_by_name_has_targets(job: TrainJob) -> Problem | None:
    """transformers wants to be told which weights; ``use_galore`` and ``use_apollo`` know."""
    projected = job.optim.startswith(("galore_", "apollo_"))
    missing = projected and not job.training_arguments.get("optim_target_modules")
    facts = {"optim": job.optim, "option": f"use_{job.optim.partition('_')[0]}"}
    return Problem("optimizer_without_targets", "optim", facts) if missing else None


def layerwise_needs_single_steps(job: TrainJob) -> Problem | None:
    """A weight that moves in the backward pass waits neither for other micro-batches nor for other processes."""
    alone = job.gradient_accumulation_steps == 1 and job.processes_here * job.nnodes == 1 and not job.fp16
    option = next((name for name in ("galore_layerwise", "apollo_layerwise") if getattr(job, name)), "optim")
    return Problem("layerwise_accumulates", option) if job.is_layerwise and not alone else None


def blocks_not_shares(job: TrainJob) -> Problem | None:
    wrong = job.use_badam and job.badam_mode == "ratio"
    return Problem("badam_ratio", "badam_mode") if wrong else None


def sharded_optimizer(job: TrainJob) -> Problem | None:
    """These take a whole matrix for one weight of the model, or a block of them."""
    chosen = job.optimizers_by_switch
    engine = next((name for name in ("deepspeed", "fsdp") if job.training_arguments.get(name)), "")
    shared = engine or (job.parallel if job.parallel != "ddp" else "")
    several = job.use_badam and job.processes_here * job.nnodes > 1
    if not chosen or not (shared or several):
        return None
    facts = {"option": chosen[0], "engine": shared or job.parallel}
    return Problem("optimizer_and_shards", chosen[0], facts)


def one_loss(job: TrainJob) -> Problem | None:
    chosen = [name for name in LOSSES if getattr(job, name)]
    wrong = len(chosen) > 1
    return Problem("two_losses", chosen[1], {"first": chosen[0], "second": chosen[1]}) if wrong else None


def least_rate_is_said(job: TrainJob) -> Problem | None:
    told = job.training_arguments.get("lr_scheduler_kwargs") or {}
    missing = job.lr_scheduler_type.endswith("with_min_lr") and not {"min_lr", "min_lr_rate"} & set(told)
    facts = {"scheduler": job.lr_scheduler_type}
    return Problem("scheduler_without_least_rate", "lr_scheduler_type", facts) if missing else None


def rows_are_drawn_at_random(job: TrainJob) -> Problem | None:
    wrong = job.training_arguments.get("train_sampling_strategy") == "group_by_length"
    return Problem("grouped_by_length", "train_sampling_strategy") if wrong else None


def engine_decides(job: TrainJob) -> Problem | None:
    given = job.training_arguments
    said = next((name for name, usual in FIXED.items() if given.get(name, usual) not in (usual, None)), None)
    return Problem("option_is_fixed", said, {"option": said}, is_warning=True) if said else None


def early_stopping_looks_at_something(job: TrainJob) -> Problem | None:
    missing = job.early_stopping_steps is not None and job.eval_strategy == "no"
    return Problem("early_stopping_without_evaluation", "early_stopping_steps") if missing else None


def best_model_is_looked_for(job: TrainJob) -> Problem | None:
    """The best checkpoint is known only where an evaluation comes before each save."""
    wanted = job.training_arguments.get("load_best_model_at_end")
    missing = wanted and job.eval_strategy == "no"
    return Problem("best_model_without_evaluation", "load_best_model_at_end") if missing else None


def accuracy_is_measured(job: TrainJob) -> Problem | None:
    idle = job.compute_accuracy and job.has_effect("compute_accuracy") and not (job.val_size or job.eval_dataset)
    return Problem("accuracy_without_rows", "compute_accuracy", is_warning=True) if idle else None


TRAIN_RULES = (
    optimizer_is_known, trackers_are_known, one_optimizer, optimizer_of_whole_weights, optimizer_by_name_has_targets,
    layerwise_needs_single_steps, blocks_not_shares, sharded_optimizer, one_loss, least_rate_is_said,
    rows_are_drawn_at_random, engine_decides, early_stopping_looks_at_something, best_model_is_looked_for,
    accuracy_is_measured,
)  # fmt: skip


def _unknown(option: str, name: str, key: str, known: dict[str, str]) -> Problem | None:
    if name in known:
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    facts = {"value": name, "near": near[0] if near else next(iter(known)), "known": ", ".join(known)}
    return Problem(key, option, facts)
