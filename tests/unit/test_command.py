"""Commands written for LLaMA-Factory run unchanged, or are refused by name with a reason."""

from __future__ import annotations

import shlex

import pytest

from engine.errors import Refused
from engine.options.command import help_text, job_from, parse, reference_options
from engine.options.jobs import JOBS, TrainJob
from engine.options.training import further_training_arguments

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


@pytest.mark.parametrize("name", reference_options())
def test_an_option_of_the_reference_that_changes_nothing_is_noted(name):
    neutral = reference_options()[name]
    for value in neutral if isinstance(neutral, list) else [neutral]:
        for said in (value, "none" if value is None else str(value)):
            job, warnings = job_from(TrainJob, {"dataset": "identity", name: said})
            assert [(problem.key, problem.option) for problem in warnings] == [("reference_option_ignored", name)]
            assert job == TrainJob(dataset=("identity",))
            assert name in warnings[0].text()


@pytest.mark.parametrize("name", reference_options())
def test_an_option_of_the_reference_that_would_change_something_is_refused(name):
    neutral = reference_options()[name]
    if isinstance(neutral, list) and set(map(str, neutral)) == {"True", "False"}:
        other = "perhaps"
    else:
        other = "True" if neutral is False else "37"
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {"dataset": "identity", name: other})
    (problem,) = refused.value.problems
    assert (problem.key, problem.option) == ("not_built_yet", name)
    assert name in problem.text()


def test_nothing_is_both_built_and_missing():
    built = {name for job in JOBS.values() for name in job.model_fields} | set(further_training_arguments())
    assert built & set(reference_options()) == set()


@pytest.mark.parametrize("kind", JOBS)
def test_help_names_every_option_with_its_default_and_limits(kind):
    text = help_text(JOBS[kind])
    for name in JOBS[kind].model_fields:
        if name != "training_arguments":
            assert f"--{name} " in text
    if kind == "train":
        assert "--lora_rank N  (≥ 1, ≤ 1024)" in text
        assert "{lora,full,freeze}" in text
        assert "models/SmolLM2-135M-Instruct" in text
