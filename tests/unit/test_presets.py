"""Presets on devices that are described: whatever the model, the result is a valid job that fits, and never in bfloat16
where a GPU has none; what was typed wins; and a command with a preset stands for one without."""

from __future__ import annotations

import pytest

from engine.catalog.devices import Device, precision
from engine.catalog.memory import Row, RowLengths, estimate
from engine.catalog.models import BUNDLED, models
from engine.catalog.presets import NAMES, preset
from engine.catalog.shape import shape_of
from engine.errors import Refused, UserError
from engine.options.command import job_from, parse, preview
from engine.options.jobs import TrainJob
from engine.options.option import about
from engine.runs.presets import expanded, job_so_far, rows_of

GB = 10**9
CPU = Device("cpu", "a CPU", 32 * GB, 28 * GB, cores=4)
T4 = Device("cuda", "Tesla T4", 16 * GB, 15 * GB, 0, (7, 5))
A100 = Device("cuda", "A100", 80 * GB, 79 * GB, 0, (8, 0))
DEVICES = (CPU, T4, A100)
CHOSEN = {
    "model_name_or_path",
    "dataset",
    "dataset_dir",
    "output_dir",
    "stage",
    "template",
    "report_to",
    "finetuning_type",
}
KINDS = (
    {}, {"finetuning_type": "full"}, {"finetuning_type": "freeze"}, {"finetuning_type": "oft"}, {"stage": "pt"},
    {"stage": "dpo"}, {"stage": "kto"}, {"stage": "rm"}, {"use_rslora": True}, {"pissa_init": True},
    {"stage": "grpo", "reward_functions": "exact_match", "num_generations": 6}, {"adapter_name_or_path": "saves/a"},
    {"streaming": True, "max_steps": 77}, {"early_stopping_steps": 2, "val_size": 0.1, "eval_strategy": "steps"},
    {"eval_dataset": "identity"}, {"use_muon": True}, {"finetuning_type": "full", "use_galore": True},
    {"use_galore": True, "galore_layerwise": True, "finetuning_type": "full", "gradient_accumulation_steps": 1},
)  # fmt: skip


def whole(name, asked, device, shape=None, **known):
    """What is asked for, with the preset on top: the preset, and the job with its warnings."""
    values = {"dataset": "identity", **asked}
    found = preset(name, job_so_far(values), shape, device, **known)
    return found, job_from(TrainJob, {**values, **found.values})


def shapes():
    """Each shape that a model of the catalogue has or is taken to have, with the first model that has it."""
    by_size = {}
    for model in models():
        shape = shape_of(model.location())
        by_size.setdefault(shape and shape.parameters, (model.location(), shape))
    assert len(by_size) >= 6
    return list(by_size.values())


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_catalogue(name, device):
    for model, shape in shapes():
        found, (job, warnings) = whole(name, {"model_name_or_path": model}, device, shape, rows=5000)
        assert warnings == [], model
        numbers = precision(device, bf16=job.bf16, fp16=job.fp16, pure_bf16=job.pure_bf16)
        if device is T4:
            assert numbers.autocast == "float16" and not job.bf16 and not job.pure_bf16
        if shape is None:
            assert found.fits is None
            continue
        verdict = estimate(job, shape, device).verdict
        assert (verdict != "too_big") == found.fits
        if not found.fits:  # only where the weights alone, in the CPU's four bytes each, leave no room to speak of
            assert device is CPU and 4 * shape.parameters > 0.8 * CPU.free_bytes, model


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("asked", KINDS, ids=lambda asked: " ".join(f"{key}={value}" for key, value in asked.items()))
def test_every_method_and_stage(asked, device):
    shape = shape_of("Qwen2.5-0.5B")
    for name in NAMES:
        for rows in (None, 50, 5000):
            found, (job, warnings) = whole(name, asked, device, shape, rows=rows)
            assert warnings == []
            assert not CHOSEN & set(found.values)
            assert found.fits
            assert all(
                about(TrainJob.model_fields[option], "level") in ("plain", "advanced") for option in found.values
            )
            assert set(found.why) <= set(found.values)
            assert parse(TrainJob, preview(job).replace("\\\n", "").split()[3:]).job == job


def test_memory_changes_the_micro_batch_and_not_the_step():
    """A smaller GPU takes fewer rows at a time and more times, and 4 bits before it learns less."""
    shape = shape_of("Qwen2.5-7B")
    jobs = {device.name: whole("balanced", {}, device, shape, rows=5000)[1].job for device in (T4, A100)}
    small, large = jobs["Tesla T4"], jobs["A100"]
    steps = {job.per_device_train_batch_size * job.gradient_accumulation_steps for job in jobs.values()}
    assert steps == {16}
    assert (small.quantization_bit, large.quantization_bit) == ("4", None)
    assert (small.lora_rank, small.cutoff_len) == (large.lora_rank, large.cutoff_len) == (16, 2048)


def test_without_bitsandbytes_nothing_is_quantized(monkeypatch):
    monkeypatch.setattr("engine.catalog.preset_fit.has_bitsandbytes", lambda: False)
    found, (job, _) = whole("balanced", {}, T4, shape_of("Qwen2.5-7B"))
    assert job.quantization_bit is None and found.fits is False
    assert whole("balanced", {"finetuning_type": "full"}, T4, shape_of("Qwen2.5-0.5B"))[0].fits


def test_rates_follow_the_size_and_the_method():
    def rate(name="balanced", model="Qwen2.5-7B", **asked):
        return whole(name, asked, A100, shape_of(model))[0].values["learning_rate"]

    assert rate() == 2e-4  # Dettmers et al. 2023, table 9: 7 and 13 billion
    assert rate(model="x-70B") == 1e-4  # and 33 and 65 billion
    assert rate(model="SmolLM2-135M") > rate(model="Qwen2.5-1.5B") > rate()
    assert rate(finetuning_type="full") == pytest.approx(rate() / 10)
    assert rate("quick") > rate() > rate("best") > rate(stage="dpo")


def test_what_is_known_of_the_rows_counts():
    shape = shape_of("Qwen2.5-0.5B")
    _, (job, _) = whole("balanced", {}, A100, shape, rows=68)
    assert (job.num_train_epochs, job.val_size, job.eval_strategy) == (5, 0, "no")
    assert job.per_device_train_batch_size * job.gradient_accumulation_steps == 4
    _, (job, _) = whole("balanced", {}, A100, shape, rows=100_000)
    assert (job.num_train_epochs, job.val_size, job.eval_strategy, job.eval_steps) == (3, 500, "steps", 0.2)
    short = RowLengths.of(Row(tokens=300 - number, learned=100, longest=300 - number) for number in range(250))
    _, (job, _) = whole("best", {}, A100, shape, lengths=short)
    assert job.cutoff_len == 512  # the next power of two
    long = RowLengths.of([Row(tokens=9000, learned=100, longest=9000)])
    assert whole("best", {}, A100, shape, lengths=long)[1].job.cutoff_len == 4096
    assert whole("quick", {}, A100, shape, lengths=long)[1].job.cutoff_len == 512
    assert whole("quick", {"max_samples": 30}, A100, shape)[1].job.max_samples == 30


def test_the_next_preset_leaves_nothing_of_the_last():
    shape = shape_of("Qwen2.5-0.5B")
    for asked in ({}, {"finetuning_type": "full"}):
        for last in NAMES:
            for name in NAMES:
                before = whole(last, asked, T4, shape, rows=5000)[1].job.values()
                after = whole(name, {**asked, **before}, T4, shape, rows=5000)[1].job
                fresh = whole(name, asked, T4, shape, rows=5000)[1].job
                different = {
                    option: (getattr(after, option), getattr(fresh, option)) for option in TrainJob.model_fields
                    if getattr(after, option) != getattr(fresh, option)
                }  # fmt: skip
                stays = {
                    "val_size",
                    "eval_steps",
                    "save_total_limit",
                    "num_train_epochs",
                }  # a quick try makes no use of it
                assert set(different) <= stays if name == "quick" else not different, (last, name, different)


def test_a_command_is_one_without_a_preset(workplace):
    typed = {
        "preset": "best",
        "dataset": "identity",
        "lora_rank": "12",
        "warmup_ratio": "0.2",
        "per_device_train_batch_size": 2,
    }
    values, chosen = expanded(typed, [CPU])
    job, warnings = job_from(TrainJob, values)
    assert warnings == []
    assert (job.lora_rank, job.warmup_steps, job.per_device_train_batch_size) == (12, 0.2, 2), "what was typed wins"
    assert job.gradient_accumulation_steps == 2 and job.cutoff_len == 2048
    assert not {"lora_rank", "warmup_steps", "per_device_train_batch_size"} & set(chosen.values)
    assert rows_of(job) == 68
    text = preview(job)
    assert "preset" not in text and parse(TrainJob, text.replace("\\\n", "").split()[3:]).job == job
    with pytest.raises(UserError, match="quick, balanced, best"):
        expanded({"preset": "fast"}, [CPU])
    values, _ = expanded({"preset": "quick", "dataset": "nowhere", "learning_rate": "abc"}, [CPU])
    with pytest.raises(Refused, match="abc"):
        job_from(TrainJob, values)


def test_typed_evaluation_is_kept():
    for typed in ({"val_size": 0}, {"eval_strategy": "no"}, {"eval_strategy": "epoch", "val_size": 0.5}):
        job = job_so_far({"dataset": "identity", **typed})
        found = preset("balanced", job, shape_of("Qwen2.5-0.5B"), A100, rows=5000, fixed=frozenset(typed))
        assert job_from(TrainJob, {"dataset": "identity", **found.values, **typed}).warnings == []


def test_the_bundled_model_is_tried_in_minutes_on_a_cpu(bundled_model):
    found, (job, _) = whole("quick", {}, CPU, shape_of(BUNDLED.location()), rows=68)
    assert (job.max_steps, job.cutoff_len, job.per_device_train_batch_size) == (60, 512, 4)
    assert found.fits and job.learning_rate == 1e-3
