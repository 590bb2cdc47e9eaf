"""Every field of the installed ``transformers.TrainingArguments`` can be set under its own name, and arrives there."""

from __future__ import annotations

import dataclasses
import os

import pytest

from engine.options.base import choices_of, plain_type
from engine.options.command import parse, preview
from engine.options.jobs import TrainJob
from engine.options.training import Training, further_training_arguments
from tests.unit.test_options import words_of

transformers = pytest.importorskip("transformers")

FIELDS = {field.name: field for field in dataclasses.fields(transformers.TrainingArguments)}

NOT_TYPED = {
    "hub_token": "a secret: it comes from the environment (HF_TOKEN) and never enters a run's folder",
    "parallelism_config": "a Python object, which no command line can write",
    "local_rank": "set by the launcher of several processes, in the environment",
    "do_predict": "refused beside a training: an evaluation writes answers and scores them",
}

NOT_OFFERED = {
    "lr_scheduler_type": {
        "reduce_lr_on_plateau": "steps on an evaluation's metric, which a run without held-out rows has not",
        "greedy": "as above",
    },
    "save_strategy": {"best": "needs an evaluation's metric"},
}

EXAMPLES = {"int": "3", "float": "0.25", "bool": "True", "str": "words", "any": '{"a": 1}'}

# What transformers itself checks, so that any text would not do.
VALID = {
    "logging_strategy": "epoch",
    "log_level": "debug",
    "log_level_replica": "error",
    "hub_strategy": "end",
    "dataloader_pin_memory": "False",  # transformers switches it off itself where there is no GPU
    "dataloader_multiprocessing_context": "spawn",
    "train_sampling_strategy": "sequential",
    "torch_compile_backend": "eager",
    "torch_compile_mode": "default",
    "accelerator_config": '{"split_batches": true}',
    "liger_kernel_config": '{"rope": true}',
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    "activation_checkpointing_kwargs": '{"use_reentrant": false}',
    "lr_scheduler_kwargs": '{"num_cycles": 2, "min_lr": 1e-6}',
    "optim_target_modules": '["q_proj"]',
    "include_for_metrics": '["inputs"]',
    "label_names": '["labels"]',
    "debug": '["underflow_overflow"]',
    "trackio_static_space_id": "False",
    "eval_delay": "2",
}
ARRIVES_AS = {"lr_scheduler_kwargs": {"num_cycles": 2, "min_lr": 1e-6}, "trackio_static_space_id": False}

# What more has to be said, or be there, for a value to be accepted.
NEEDS = {
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1},
    "dataloader_persistent_workers": {"dataloader_num_workers": 1},
    "load_best_model_at_end": {"eval_strategy": "steps"},
    "eval_on_start": {"eval_strategy": "steps"},
}
EVALUATES = ("load_best_model_at_end",)
NEEDS_MORE_THAN_THIS_MACHINE = {
    "tf32": "an NVIDIA GPU of the Ampere generation or later",
    "deepspeed": "the deepspeed package",
    "ddp_backend": "several processes",
    "fsdp": "several processes",
    "fsdp_config": "several processes",
}


@pytest.fixture(autouse=True)
def same_environment():
    """TrainingArguments writes to the environment (torch_compile and others do)."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_every_field_has_its_place():
    declared = set(TrainJob.model_fields) & set(FIELDS)
    further = set(further_training_arguments())
    assert declared & further == set()
    assert set(FIELDS) - declared - further == set(NOT_TYPED), "of transformers, but unknown here"
    assert further - set(FIELDS) == set(), "listed here, but unknown to the installed transformers"


def test_every_declared_field_has_the_type_of_the_original():
    for name in set(Training.model_fields) & set(FIELDS):
        ours, theirs = plain_type(Training.model_fields[name]), FIELDS[name].type
        said = theirs if isinstance(theirs, str) else getattr(theirs, "__name__", str(theirs))
        said = str(theirs) if "|" in str(theirs) or "Union" in str(theirs) else said
        expected = {tuple: "list"}.get(ours, ours.__name__)
        assert expected in said, f"{name}: {ours.__name__} here, {said} there"


@pytest.mark.parametrize("name", ["lr_scheduler_type", "save_strategy", "eval_strategy"])
def test_every_choice_of_the_original_is_offered(name):
    kinds = {
        "lr_scheduler_type": transformers.SchedulerType,
        "save_strategy": transformers.trainer_utils.SaveStrategy,
        "eval_strategy": transformers.trainer_utils.IntervalStrategy,
    }
    theirs = {member.value for member in kinds[name]}
    assert theirs - set(choices_of(Training.model_fields[name])) == set(NOT_OFFERED.get(name, {}))
    assert set(choices_of(Training.model_fields[name])) <= theirs


@pytest.mark.parametrize("name", sorted(set(further_training_arguments()) - set(NEEDS_MORE_THAN_THIS_MACHINE)))
def test_a_further_field_is_accepted_and_arrives(name, tmp_path):
    typed = VALID.get(name, EXAMPLES[further_training_arguments()[name]])
    more = ["eval_strategy=steps", "val_size=3"] if name in EVALUATES else []
    more += ["do_train=true"] if name == "do_eval" else []  # alone it means that nothing is trained
    job = parse(TrainJob, ["dataset=identity", *more, f"--{name}", typed]).job
    assert parse(TrainJob, words_of(preview(job))).job == job
    value = job.training_arguments[name]
    with_needs = {"output_dir": str(tmp_path), "use_cpu": True, **NEEDS.get(name, {}), name: value}
    arrived = getattr(transformers.TrainingArguments(**with_needs), name)
    if name in ARRIVES_AS:
        assert value == arrived == ARRIVES_AS[name]
    elif name == "accelerator_config":
        assert arrived.split_batches is True
    else:
        assert arrived == value


@pytest.mark.parametrize("name", sorted(NEEDS_MORE_THAN_THIS_MACHINE))
def test_a_field_for_larger_machines_is_at_least_understood(name):
    typed = VALID.get(name, EXAMPLES[further_training_arguments()[name]])
    job = parse(TrainJob, ["dataset=identity", f"--{name}", typed]).job
    assert parse(TrainJob, words_of(preview(job))).job == job
    assert job.training_arguments[name] is not None
