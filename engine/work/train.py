"""Fine-tuning, from the first line to the last: load, encode, train, save. Each part's craft lies in its own file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments, set_seed

from engine.catalog.devices import Precision, precision
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.plot import save_loss_plot
from engine.runs.progress import watch
from engine.runs.record import Recorder, write_text
from engine.work.adapters import make_trainable
from engine.work.dataset import prepare
from engine.work.device import usable_device
from engine.work.download import local_model
from engine.work.load import load_model, load_tokenizer
from engine.work.reporter import Reporter
from engine.work.supervised import SupervisedTrainer


def run(job: TrainJob, recorder: Recorder) -> dict[str, Any]:
    """Train, and leave in the run's folder what a user of this field expects to find there."""
    folder = recorder.folder
    write_text(folder.training_args, yaml.safe_dump(job.values(), sort_keys=True, allow_unicode=True))
    set_seed(job.seed)
    device = usable_device(recorder)
    chosen = precision(device, bf16=job.bf16, fp16=job.fp16, pure_bf16=job.pure_bf16)
    if chosen.is_changed:
        recorder.warn(chosen.reason_key, **chosen.facts)
    path = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    recorder.phase("loading_tokenizer")
    tokenizer = load_tokenizer(path, job)
    rows = prepare(job, tokenizer, recorder)
    recorder.phase("loading_model")
    model = make_trainable(load_model(path, job, getattr(torch, chosen.weights), device.address), job, chosen.trained)
    recorder.event(parameters=count_parameters(model), precision=dataclasses.asdict(chosen), device=device.name)
    recorder.check_stop()
    trainer = SupervisedTrainer(
        model=model,
        args=training_arguments(job, folder, chosen, has_evaluation=rows.evaluation is not None),
        train_dataset=rows.train,
        eval_dataset=rows.evaluation,
        processing_class=tokenizer,
        callbacks=[Reporter(recorder)],
        pad_token_id=tokenizer.pad_token_id,
    )
    recorder.phase("training")
    outcome = trainer.train(resume_from_checkpoint=checkpoint_to_resume(job, folder))
    metrics = {**outcome.metrics, "num_input_tokens_seen": trainer.state.num_input_tokens_seen}
    if rows.evaluation is not None and not recorder.is_stop_requested:
        recorder.phase("evaluating")
        metrics |= trainer.evaluate()
    recorder.phase("saving")
    save(trainer, tokenizer, folder)
    trainer.save_state()
    write_text(folder.results, json.dumps(metrics, indent=4))
    write_text(folder.path / "train_results.json", json.dumps(outcome.metrics, indent=4))
    if job.plot_loss:
        save_loss_plot(watch(folder).points, folder.loss_plot)
    return {"output_dir": str(folder.path), "metrics": metrics, "rows": vars(rows.counts), "saved_at": time.time()}


def training_arguments(job: TrainJob, folder: Folder, chosen: Precision, has_evaluation: bool) -> TrainingArguments:
    """transformers' arguments: every option that goes by one of their names, and what is decided for this device."""
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    given = {name: value for name, value in job.model_dump().items() if name in known}
    given |= job.training_arguments
    ours = {
        "output_dir": str(folder.path),
        "bf16": chosen.autocast == "bfloat16",
        "fp16": chosen.autocast == "float16",
        "use_cpu": chosen.is_cpu,
        "report_to": list(job.report_to),
        "remove_unused_columns": False,  # our rows are no columns of a datasets.Dataset
        "prediction_loss_only": True,
        "resume_from_checkpoint": None,  # handed to train()
        "eval_strategy": job.eval_strategy if has_evaluation else "no",
    }
    calm = {
        "gradient_checkpointing": job.disable_gradient_checkpointing is False,
        "logging_nan_inf_filter": False,  # a loss that is not a number is shown, not smoothed over
        "disable_tqdm": True,
        "dataloader_pin_memory": not chosen.is_cpu,
    }
    return TrainingArguments(**{**calm, **given, **ours})


def checkpoint_to_resume(job: TrainJob, folder: Folder) -> str | None:
    """The checkpoint to go on from: the one asked for, else the last complete one of an unfinished run.

    Raises:
        UserError: the checkpoint asked for is not there, or is not complete.
    """
    asked = job.resume_from_checkpoint
    if asked and asked.lower() not in ("true", "false"):
        if not (Path(asked) / "trainer_state.json").is_file():
            raise UserError("checkpoint_missing", path=asked)
        return asked
    if job.overwrite_output_dir or (asked and asked.lower() == "false"):
        return None
    checkpoints = folder.checkpoints()
    return str(checkpoints[-1]) if checkpoints else None


def save(trainer: SupervisedTrainer, tokenizer: Any, folder: Folder) -> None:
    """Write weights and tokenizer beside their final place first, so that no half of one ever has its final name."""
    unfinished = folder.path / ".saving"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        trainer.save_model(str(unfinished))
        tokenizer.save_pretrained(unfinished)
        for path in sorted(unfinished.iterdir()):
            os.replace(path, folder.path / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {"trained": trained, "all": sum(parameter.numel() for parameter in parameters)}
