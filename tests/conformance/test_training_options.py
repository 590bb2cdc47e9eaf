"""Small options of the training loop, seen in what a run leaves: each against what it should do, computed apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.options.command import job_from
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, update_state
from engine.work import train
from engine.work.dataset import prepare

SECRET = "never-to-be-seen-4711"


@pytest.fixture
def rows(workplace: Path) -> Path:
    path = workplace / "rows.json"
    made = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(12)]
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def trained(model: Path, rows: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, float], Folder]:
    """Log lines, results and folder of a short training."""
    values = {
        "model_name_or_path": str(model), "dataset": str(rows), "output_dir": "saves/t/run", "max_steps": 2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": "1e-3",
        "logging_steps": 1, "save_strategy": "no", "plot_loss": False, "overwrite_output_dir": True,
        "fp16": True,  # on any CPU that is float32, as what is computed apart here
    }  # fmt: skip
    job = job_from(TrainJob, {**values, **options}).job
    folder = Folder(Path(job.output_dir).absolute())
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.events.unlink(missing_ok=True)
    update_state(folder, kind="train", status="running")
    metrics = train.run(job, Recorder(folder))["metrics"]
    return [json.loads(line) for line in folder.events.read_text(encoding="utf-8").splitlines()], metrics, folder


def losses(log: list[dict[str, Any]], name: str = "loss") -> list[float]:
    return [line[name] for line in log if name in line]


def predictions(model: Path, rows: Path, job: TrainJob, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and right tokens of the learned positions of the first rows, each row by itself."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    folder = Folder(Path("saves/t/rows").absolute())
    folder.path.mkdir(parents=True, exist_ok=True)
    encoded = prepare(job, tokenizer, Recorder(folder)).train
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for number in range(count):
        row = encoded[number]
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        found.append((logits[labels != -100], labels[labels != -100]))
    return found


def job_of(model: Path, rows: Path) -> TrainJob:
    return job_from(TrainJob, {"model_name_or_path": str(model), "dataset": str(rows)}).job


def test_rows_keep_their_order_and_a_weighed_loss_is_the_mean_of_a_step(tiny_model, rows):
    log, *_ = trained(tiny_model, rows, disable_shuffling=True, use_eaft_loss=True, max_steps=1)
    expected, tokens = 0.0, 0
    for logits, targets in predictions(tiny_model, rows, job_of(tiny_model, rows), 4):
        for row, target in zip(logits.double(), targets, strict=True):
            best = row.topk(20).values.softmax(0)
            entropy = -(best * best.log()).sum()
            expected += float(-(row.softmax(0)[target].log()) * entropy / 3)
            tokens += 1
    assert losses(log)[0] == pytest.approx(expected / tokens, rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_that_has_not_moved_is_not_held(tiny_model, rows, method):
    """ASFT adds nothing at the first step, and something once the model is another one."""
    common = {"disable_shuffling": True, "finetuning_type": method, "max_steps": 3, "learning_rate": "1e-2"}
    plain = losses(trained(tiny_model, rows, use_dft_loss=True, **common)[0])
    held = losses(trained(tiny_model, rows, use_asft_loss=True, asft_alpha=5.0, **common)[0])
    assert held[0] == pytest.approx(plain[0], abs=1e-6)
    assert held[2] > plain[2] + 1e-4


def test_accuracy_and_smoothing(tiny_model, rows):
    log, metrics, _ = trained(
        tiny_model, rows, disable_shuffling=True, compute_accuracy=True, eval_dataset=str(rows), learning_rate=0.0,
        label_smoothing_factor=0.2, max_steps=1, include_effective_tokens_per_second=True,
    )  # fmt: skip
    found = predictions(tiny_model, rows, job_of(tiny_model, rows), 12)
    right = sum(int((logits.argmax(-1) == targets).sum()) for logits, targets in found)
    count = sum(len(targets) for _, targets in found)
    assert metrics["eval_accuracy"] == pytest.approx(right / count, abs=1e-6)
    smoothed = [functional.cross_entropy(*each, reduction="sum", label_smoothing=0.2).item() for each in found]
    assert losses(log)[0] == pytest.approx(sum(smoothed[:4]) / sum(len(each[1]) for each in found[:4]), rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(sum(smoothed) / count, rel=1e-4)
    seen, seconds = metrics["num_input_tokens_seen"], metrics["train_runtime"]
    assert metrics["effective_tokens_per_sec"] == pytest.approx(seen / seconds)


def test_noise_on_embeddings_is_there_in_training_and_not_in_evaluation(tiny_model, rows):
    common = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "max_steps": 1}
    plain, *_ = trained(tiny_model, rows, **common)
    noisy, *_ = trained(tiny_model, rows, neftune_noise_alpha=10, **common)
    assert losses(noisy, "eval_loss")[0] == pytest.approx(losses(plain, "eval_loss")[0], abs=1e-6)
    assert abs(losses(noisy)[0] - losses(plain)[0]) > 1e-3


def test_training_ends_when_evaluations_get_no_better(tiny_model, rows):
    log, *_ = trained(
        tiny_model, rows, val_size=4, eval_strategy="steps", eval_steps=1, early_stopping_steps=2, max_steps=12,
        num_train_epochs=9, learning_rate=1e-12, lr_scheduler_type="constant",
    )  # fmt: skip
    found = losses(log, "eval_loss")
    best = found.index(min(found))
    assert len(losses(log)) == best + 3 < 12  # the best one, and two that were no better


def test_a_schedule_with_a_stable_part_needs_nothing_more(tiny_model, rows):
    log, *_ = trained(tiny_model, rows, lr_scheduler_type="warmup_stable_decay", max_steps=6, num_train_epochs=9)
    rates = losses(log, "lr")
    assert rates[:3] == [1e-3] * 3 and rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] < rates[3]


def test_tensorboard_gets_the_curve_and_no_secret_enters_the_folder(tiny_model, rows, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("HF_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    log, _, folder = trained(tiny_model, rows, report_to="tensorboard", save_strategy="steps", save_steps=2)
    (path,) = (folder.path / "runs").rglob("events.out.tfevents.*")
    read = EventAccumulator(str(path))
    read.Reload()
    assert [event.value for event in read.Scalars("train/loss")] == pytest.approx(losses(log), abs=1e-4)
    written = [each for each in folder.path.rglob("*") if each.is_file()]
    assert len(written) > 10
    assert [each for each in written if SECRET.encode() in each.read_bytes()] == []
