"""YAML files with the keys of LLaMA-Factory 0.9.5's text examples: each runs, or is refused for the reason said here.

The keys are facts about those files; the values are our own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import Refused
from engine.options.command import parse, preview
from engine.options.jobs import JOBS
from engine.options.yaml_text import write_yaml
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from tests.unit.test_options import words_of

MODEL = {"model_name_or_path": "models/SmolLM2-135M-Instruct", "trust_remote_code": "true"}
LOOP = {
    "cutoff_len": 256, "max_samples": 8, "preprocessing_num_workers": 1, "dataloader_num_workers": 0,
    "output_dir": "saves/t/run", "logging_steps": 1, "save_steps": 50, "plot_loss": "false",
    "overwrite_output_dir": "true", "save_only_model": "false", "report_to": "none",
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": "1.0e-4",
    "num_train_epochs": 1.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": "true",
    "ddp_timeout": 180000000, "resume_from_checkpoint": "null",
}  # fmt: skip
LORA = {"do_train": "true", "finetuning_type": "lora", "lora_rank": 4, "lora_target": "all"}
SFT = {**MODEL, "stage": "sft", "dataset": "identity,spo_demo", "template": "qwen3_nothink", **LOOP}
FULL = {**SFT, "do_train": "true", "finetuning_type": "full", "overwrite_cache": "true"}
PURE = {**FULL, "bf16": "false", "pure_bf16": "true", "gradient_accumulation_steps": 1}
MERGE = {**MODEL, "template": "qwen3_nothink", "export_dir": "saves/merged", "export_size": 5, "export_device": "cpu",
         "export_legacy_format": "false"}  # fmt: skip
INFER = {**MODEL, "template": "qwen3_nothink", "infer_backend": "huggingface"}
GALORE = {"use_galore": "true", "galore_layerwise": "true", "galore_target": "all", "galore_rank": 4,
          "galore_scale": 2.0}  # fmt: skip
APOLLO = {"use_apollo": "true", "apollo_layerwise": "true", "apollo_target": "all", "apollo_rank": 4,
          "apollo_scale": 32.0, "apollo_scale_type": "channel"}  # fmt: skip
BADAM = {"use_badam": "true", "badam_mode": "layer", "badam_switch_mode": "ascending", "badam_switch_interval": 1,
         "badam_verbose": 2}  # fmt: skip
OFT = {**SFT, "do_train": "true", "finetuning_type": "oft", "oft_block_size": 8, "oft_target": "all"}

RUNS = {
    "train_lora/qwen3_lora_sft": ("train", {**SFT, **LORA}),
    "train_lora/qwen3_lora_pretrain": ("train", {**SFT, **LORA, "stage": "pt"}),
    "train_lora/qwen3_lora_dpo": ("train", {**SFT, **LORA, "stage": "dpo", "pref_beta": 0.1, "pref_loss": "sigmoid"}),
    "train_lora/qwen3_lora_kto": ("train", {**SFT, **LORA, "stage": "kto", "pref_beta": 0.1}),
    "train_lora/qwen3_lora_reward": ("train", {**SFT, **LORA, "stage": "rm"}),
    "train_lora/qwen3_lora_sft_ds3": ("train", {**SFT, **LORA, "deepspeed": "zero3.json"}),
    "train_lora/qwen3_preprocess": (
        "train",
        {**MODEL, **LORA, "dataset": "identity", "template": "qwen3_nothink", "cutoff_len": 256, "max_samples": 8,
         "preprocessing_num_workers": 1, "tokenized_path": "saves/t/rows", "output_dir": "saves/t/run",
         "overwrite_output_dir": "true"},
    ),
    "train_full/qwen3_full_sft": ("train", {**FULL, "deepspeed": "zero3.json"}),
    "train_qlora/qwen3_lora_sft_otfq": ("train", {**SFT, **LORA, "quantization_bit": 4, "quantization_method": "bnb"}),
    "inference/qwen3": ("chat", INFER),
    "inference/qwen3_full_sft": ("chat", INFER),
    "inference/qwen3_lora_sft": ("chat", {**INFER, "adapter_name_or_path": "saves/t/lora"}),
    "merge_lora/qwen3_full_sft": ("export", MERGE),
    "merge_lora/qwen3_lora_sft": ("export", {**MERGE, "adapter_name_or_path": "saves/t/lora"}),
    "extras/adam_mini": ("train", {**FULL, "use_adam_mini": "true"}),
    "extras/apollo": ("train", {**PURE, **APOLLO}),
    "extras/asft": ("train", {**FULL, "use_asft_loss": "true", "asft_alpha": 0.05}),
    "extras/badam": ("train", {**FULL, **BADAM}),
    "extras/dft": ("train", {**FULL, "use_dft_loss": "true"}),
    "extras/eaft": ("train", {**FULL, "use_eaft_loss": "true"}),
    "extras/fsdp_qlora": ("train", {**SFT, **LORA, "quantization_bit": 4}),
    "extras/galore": ("train", {**PURE, **GALORE}),
    "extras/llama_pro": (
        "train",
        {**SFT, "do_train": "true", "finetuning_type": "freeze", "freeze_trainable_layers": 2,
         "freeze_trainable_modules": "all", "use_llama_pro": "true"},
    ),
    "extras/loraplus": ("train", {**SFT, **LORA, "loraplus_lr_ratio": 16.0}),
    "extras/muon": ("train", {**FULL, "use_muon": "true"}),
    "extras/oft": ("train", OFT),
    "extras/pissa": ("train", {**SFT, **LORA, "pissa_init": "true", "pissa_iter": 16, "pissa_convert": "true"}),
    "extras/qoft_bnb": ("train", {**OFT, "quantization_bit": 4, "quantization_method": "bnb",
                                  "double_quantization": "false"}),
}  # fmt: skip

REFUSED = {
    "train_lora/qwen3_lora_sft_ray": ("train", {**SFT, **LORA, "ray_num_workers": 4}, {"reference.ray"}),
    "merge_lora/qwen3_gptq": (
        "export", {**MERGE, "export_quantization_bit": 4, "export_quantization_dataset": "data/some.jsonl"},
        {"reference.quantized_export"},
    ),
    "extras/fp8_deepspeed": (
        "train", {**FULL, "fp8": "true", "fp8_backend": "torchao", "fp8_enable_fsdp_float8_all_gather": "false"},
        {"reference.fp8"},
    ),
    "extras/fp8_fsdp": (
        "train",
        {**FULL, "fp8": "true", "fp8_backend": "torchao", "fp8_enable_fsdp_float8_all_gather": "true",
         "fsdp": ["full_shard", "auto_wrap"], "fsdp_transformer_layer_cls_to_wrap": "SomeLayer"},
        {"reference.fp8"},
    ),
    "extras/mod": (
        "train", {**FULL, "mixture_of_depths": "convert", "optim": "paged_adamw_8bit"}, {"reference.mixture_of_depths"},
    ),
    "extras/nlg_eval": (
        "train",
        {**MODEL, "adapter_name_or_path": "saves/t/lora", "stage": "sft", "do_predict": "true",
         "finetuning_type": "lora", "eval_dataset": "identity", "template": "qwen3_nothink", "max_samples": 8,
         "output_dir": "saves/t/run", "per_device_eval_batch_size": 1, "predict_with_generate": "true"},
        {"reference.predicted_answers", "dataset_missing"},
    ),
}  # fmt: skip

NOTED = {"infer_backend", "pissa_convert", "badam_verbose"}
"""Options that change nothing here, which is said."""

TRIED = (
    "train_lora/qwen3_lora_sft", "train_lora/qwen3_preprocess", "extras/dft", "extras/badam", "extras/muon",
    "extras/loraplus", "extras/llama_pro", "extras/oft",
)  # fmt: skip


def written(folder: Path, options: dict) -> str:
    """A file as a user writes it: no quotes around numbers."""
    path = folder / "some.yaml"
    lines = [f"{name}: {json.dumps(value) if isinstance(value, list) else value}" for name, value in options.items()]
    path.write_text("### a file of somebody's\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", RUNS)
def test_a_file_of_the_examples_runs_unchanged(name, tmp_path):
    kind, options = RUNS[name]
    job, warnings = parse(JOBS[kind], [written(tmp_path, options)])
    assert {problem.option for problem in warnings} <= NOTED
    assert parse(JOBS[kind], words_of(preview(job))).job == job
    again = tmp_path / "again.yaml"
    again.write_text(write_yaml(job.values()), encoding="utf-8")
    assert parse(JOBS[kind], [str(again)]).job == job
    if kind == "train":
        assert job.warmup_steps == options.get("warmup_ratio", 0) and job.cutoff_len == 256


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_run_says_why(name, tmp_path):
    kind, options, expected = REFUSED[name]
    with pytest.raises(Refused) as refused:
        parse(JOBS[kind], [written(tmp_path, options)])
    assert {problem.key for problem in refused.value.problems} == expected


@pytest.mark.parametrize("name", TRIED)
def test_two_steps_of_it(name, tmp_path, tiny_model, workplace):
    pytest.importorskip("torch")
    from engine.work import train

    ours = {"model_name_or_path": tiny_model, "dataset": "identity", "max_steps": 2, "logging_steps": 1}
    options = {**RUNS[name][1], **ours}
    job = parse(JOBS["train"], [written(tmp_path, {**options, "plot_loss": "false", "save_strategy": "no"})]).job
    folder = Folder(workplace / job.output_dir)
    folder.path.mkdir(parents=True)
    metrics = train.run(job, Recorder(folder))["metrics"]
    assert metrics["train_loss"] > 0 and metrics["num_input_tokens_seen"] > 0
    log = [json.loads(line) for line in folder.events.read_text(encoding="utf-8").splitlines()]
    assert [line["current_steps"] for line in log if "loss" in line][-1] == 2
