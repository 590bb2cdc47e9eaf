"""Commands written for LLaMA-Factory run unchanged, or are refused by name with a reason."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

import app
from engine.errors import Refused
from engine.options.command import help_text, job_from, parse
from engine.options.jobs import JOBS, ChatJob, ExportJob, TrainJob
from engine.options.reference import reference_options
from engine.options.training import further_training_arguments
from engine.words import words
from tests.conftest import PROJECT

FLAGS = yaml.safe_load(Path(__file__).with_name("reference_flags.yaml").read_text(encoding="utf-8"))
RUNNING = ("model", "data", "finetuning", "training", "generating", "transformers")
"""Kinds of options that its commands train, chat, export and api take."""

MUST_BE_SAID = {
    "model_name_or_path": "ours is the bundled model",
    "dataset": "a training needs one",
    "do_train": "false there, and then nothing is done; true here",
    "output_dir": "must be said there",
    "export_dir": "an export needs one",
    "master_addr": "none there, which torchrun reads as 127.0.0.1",
}
MADE_AT_START = {"include_for_metrics": []}

DIFFERENT = {
    "model_name_or_path", "do_train", "plot_loss", "enable_thinking", "disable_gradient_checkpointing", "master_addr",
    "learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps",
    "per_device_eval_batch_size", "logging_steps", "save_steps", "include_num_input_tokens_seen", "ddp_timeout",
    "optim",
}  # fmt: skip
"""Options whose default is not the reference's; docs/options.md says why."""

# The preview that LLaMA-Factory 0.9.6.dev0 shows for its default LoRA run, copied from its page.
REFERENCE_PREVIEW = r"""llamafactory-cli train \
    --stage sft \
    --do_train True \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --preprocessing_num_workers 16 \
    --finetuning_type lora \
    --template qwen \
    --flash_attn auto \
    --dataset_dir data \
    --dataset alpaca_en_demo \
    --cutoff_len 2048 \
    --learning_rate 5e-05 \
    --num_train_epochs 3.0 \
    --max_samples 100000 \
    --seed 42 \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 8 \
    --lr_scheduler_type cosine \
    --max_grad_norm 1.0 \
    --logging_steps 5 \
    --save_steps 100 \
    --warmup_steps 0 \
    --packing False \
    --enable_thinking True \
    --report_to none \
    --output_dir saves/Qwen2.5-0.5B-Instruct/lora/train_2026-01-01-00-00-00 \
    --bf16 True \
    --plot_loss True \
    --trust_remote_code True \
    --ddp_timeout 180000000 \
    --include_num_input_tokens_seen True \
    --optim adamw_torch \
    --lora_rank 8 \
    --lora_alpha 16 \
    --lora_dropout 0 \
    --lora_target all """

DEMO = """--stage sft --do_train True --model_name_or_path models/SmolLM2-135M-Instruct
    --preprocessing_num_workers 16 --finetuning_type lora --template chatml --flash_attn auto --dataset_dir data
    --dataset identity,spo_demo --cutoff_len 2048 --learning_rate 2e-4 --num_train_epochs 3.0 --max_samples 100000
    --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --lr_scheduler_type cosine --max_grad_norm 1.0
    --logging_steps 5 --save_steps 100 --warmup_steps 0 --packing False --report_to none
    --output_dir saves/SmolLM2-135M-Instruct/lora/train_demo --bf16 True --plot_loss True --trust_remote_code False
    --ddp_timeout 180000000 --include_num_input_tokens_seen True --optim adamw_torch
    --lora_rank 8 --lora_alpha 16 --lora_dropout 0 --lora_target all"""


def flags(words: list[str]) -> dict[str, str]:
    assert all(word.startswith("--") for word in words[::2])
    return {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("command", [REFERENCE_PREVIEW.split(" ", 2)[2], DEMO], ids=["preview", "demo"])
def test_a_command_of_the_reference_runs_unchanged(command):
    words = shlex.split(command.replace("\\\n", " "))
    job, warnings = parse(TrainJob, words)
    assert warnings == []
    typed = flags(words)
    for name, text in typed.items():
        value = getattr(job, name)
        if isinstance(value, tuple):
            assert ",".join(value) == text
        elif isinstance(value, bool):
            assert str(value) == text
        elif isinstance(value, int | float):
            assert value == float(text)
        elif name == "include_num_input_tokens_seen":
            assert value == "non_padding"  # what true means where padding is not counted
        else:
            assert value == text
    untouched = set(TrainJob.model_fields) - set(typed)
    assert all(getattr(job, name) == TrainJob.model_fields[name].default for name in untouched)


def job_with(name: str) -> tuple[type, dict]:
    """A job that takes this option, and what else it has to be told."""
    if name in FLAGS["generating"]:
        return ChatJob, {}
    if name in ExportJob.model_fields and name not in TrainJob.model_fields:
        return ExportJob, {"export_dir": "merged"}
    return TrainJob, {"dataset": "identity"}


@pytest.mark.parametrize("name", reference_options())
def test_an_option_of_the_reference_that_changes_nothing_is_noted(name):
    neutral = reference_options()[name].neutral
    values = neutral if isinstance(neutral, list) else ["anything", 3, True] if neutral == "any" else [neutral]
    for value in values:
        for said in (value, "none" if value is None else str(value)):
            job, warnings = job_from(TrainJob, {"dataset": "identity", name: said})
            assert [(problem.key, problem.option) for problem in warnings] == [("reference_option_ignored", name)]
            assert job == TrainJob(dataset=("identity",))
            assert name in warnings[0].text()


@pytest.mark.parametrize("name", [name for name, each in reference_options().items() if each.neutral != "any"])
def test_an_option_of_the_reference_that_would_change_something_is_refused_with_its_reason(name):
    reason, neutral = reference_options()[name]
    other = "True" if neutral is False else "False" if neutral is True else "sesame37"
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {"dataset": "identity", name: other})
    (problem,) = refused.value.problems
    expected = "secret" if reason.startswith("secret.") else reason
    assert (problem.key, problem.option) == (f"reference.{expected}", name)
    assert name in problem.text()
    if reason.startswith("secret.") or name.endswith(("secret", "token", "url")):
        assert "sesame" not in refused.value.text() + str(problem)


def test_nothing_is_both_built_and_missing():
    built = {name for job in JOBS.values() for name in job.model_fields} | set(further_training_arguments())
    assert built & set(reference_options()) == {"do_predict"}  # an evaluation does it, a training refuses it


@pytest.mark.parametrize("name", [name for group in RUNNING for name in FLAGS[group]])
def test_every_option_of_the_reference_is_there_or_refused_and_at_its_default_a_command_runs(name):
    value = next(FLAGS[group][name] for group in RUNNING if name in FLAGS[group])
    if name in MUST_BE_SAID:
        return
    job_type, needed = job_with(name)
    said = MADE_AT_START.get(name, value)
    parsed = job_from(job_type, {**needed, name: said})
    assert all(problem.is_warning for problem in parsed.warnings)
    expected = name if name in reference_options() else None
    assert [problem.option for problem in parsed.warnings] == ([expected] if expected else [])


def test_options_of_its_multiple_choice_benchmarks_are_unknown_as_there():
    for name in set(FLAGS["evaluation"]) - {"seed", "lang"}:
        with pytest.raises(Refused) as refused:
            job_from(TrainJob, {"dataset": "identity", name: FLAGS["evaluation"][name]})
        assert refused.value.problems[0].key.startswith("unknown_option")


def test_defaults_differ_only_where_it_is_said():
    theirs = {name: value for group in RUNNING for name, value in FLAGS[group].items()}
    ours = {}
    for name in theirs:
        field = job_with(name)[0].model_fields.get(name)
        if field is not None:
            ours[name] = field.default
    plain = {name: ",".join(value) or None if isinstance(value, tuple) else value for name, value in ours.items()}
    found = {name for name, value in plain.items() if value != theirs[name] and str(value) != str(theirs[name])}
    assert found == set(DIFFERENT)
    text = (PROJECT / "docs" / "options.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in DIFFERENT)


@pytest.mark.parametrize(
    ("said", "steps"), [({"warmup_ratio": 0.1}, 0.1), ({"warmup_ratio": "0.1", "warmup_steps": 7}, 0.1),
                        ({"warmup_ratio": None, "warmup_steps": 7}, 7)],
)  # fmt: skip
def test_a_share_of_steps_to_warm_up_goes_by_another_name(said, steps):
    parsed = job_from(TrainJob, {"dataset": "identity", **said})
    assert parsed.job.warmup_steps == steps and parsed.warnings == []


def test_fused_kernels_go_by_another_name():
    assert job_from(TrainJob, {"dataset": "identity", "enable_liger_kernel": True}).job.training_arguments == {
        "use_liger_kernel": True
    }


def test_an_evaluation_alone_does_not_train():
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {"dataset": "identity", "do_eval": True, "val_size": 3})
    assert [problem.key for problem in refused.value.problems] == ["do_train_false"]
    assert job_from(TrainJob, {"dataset": "identity", "do_eval": True, "do_train": True, "val_size": 3}).warnings == []


@pytest.mark.parametrize("job_type", [ChatJob, ExportJob])
def test_what_was_said_of_the_training_is_noted_after_it(job_type):
    values = {"finetuning_type": "lora", "stage": "sft", "cutoff_len": 512, "export_dir": "merged"}
    if job_type is ChatJob:
        del values["export_dir"]
    warnings = job_from(job_type, values).warnings
    assert {problem.option for problem in warnings} == {"finetuning_type", "stage", "cutoff_len"}
    with pytest.raises(Refused):
        job_from(job_type, {**values, "finetunig_type": "lora"})


@pytest.mark.parametrize("word", ["webchat"])
def test_a_word_that_is_not_built_is_refused_with_what_there_is(word, capsys):
    assert app.main([word, "some.yaml"]) == 2
    assert word in capsys.readouterr().err


def test_version_is_what_env_shows(capsys):
    assert app.main(["version", "--help"]) == 0
    assert capsys.readouterr().out.strip() == words("cli.commands.env").strip()


@pytest.mark.parametrize("kind", JOBS)
def test_help_names_every_option_with_its_default_and_limits(kind):
    text = help_text(JOBS[kind])
    for name in JOBS[kind].model_fields:
        if name != "training_arguments":
            assert f"--{name} " in text
    if kind == "train":
        assert "--lora_rank N  (≥ 1, ≤ 1024)" in text
        assert "{lora,oft,full,freeze}" in text
        assert "models/SmolLM2-135M-Instruct" in text
