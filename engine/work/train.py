"""Fine-tuning, from the first line to the last: load, encode, train, save. Each part's craft lies in its own file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from engine.catalog.devices import Device, Precision, precision
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.options.yaml_text import write_yaml
from engine.runs.checkpoints import STATE, damage, numbered, settle, write_through
from engine.runs.folder import Folder
from engine.runs.plot import save_loss_plot
from engine.runs.progress import watch
from engine.runs.record import Recorder, write_text
from engine.runs.saved import lacks_optimizer
from engine.work.dataset import remove_rows, tell
from engine.work.device import usable_device
from engine.work.doctor import Doctor
from engine.work.download import local_model
from engine.work.frozen import keep_frozen
from engine.work.ladder import Ladder
from engine.work.load import load_tokenizer
from engine.work.optimizers import optimizer_of
from engine.work.parallel import load_address, parallel_arguments
from engine.work.peak import peak_memory_bytes
from engine.work.quantization import count_numbers
from engine.work.ranks import Ranks
from engine.work.reporter import Reporter
from engine.work.row_lengths import checkpointing
from engine.work.run_card import tell_attempt, tell_models
from engine.work.stages import arguments_type, model_of, rows_of, trainer_of
from engine.work.tracking import begin_tracking


class Ready(NamedTuple):
    """A training before its first step."""

    device: Device
    ranks: Ranks
    folder: Folder
    tokenizer: Any
    rows: Any
    trainer: Any
    base: Path


def run(job: TrainJob, recorder: Recorder) -> dict[str, Any]:
    """Train, and leave in the run's folder what a user of this field expects to find there."""
    device, ranks, folder, tokenizer, rows, trainer, base = ready(job, recorder)
    recorder.phase("training")
    found = checkpoint_to_resume(job, folder, recorder) if ranks.is_first else None
    outcome = trainer.train(resume_from_checkpoint=ranks.from_first(found))
    metrics = {**outcome.metrics, "num_input_tokens_seen": trainer.state.num_input_tokens_seen}
    if job.include_effective_tokens_per_second and outcome.metrics.get("train_runtime"):
        metrics["effective_tokens_per_sec"] = trainer.state.num_input_tokens_seen / outcome.metrics["train_runtime"]
    if rows.evaluation is not None and not recorder.is_stop_requested:
        recorder.phase("evaluating")
        metrics |= trainer.evaluate()
    if job.streaming:
        tell(rows.train.counts, job, recorder)
    recorder.phase("saving")
    save(trainer, tokenizer, folder, ranks, base if job.finetuning_type == "freeze" else None)
    trainer.save_state()
    if ranks.is_first:
        write_text(folder.results, json.dumps(metrics, indent=4))
        write_text(folder.path / "train_results.json", json.dumps(outcome.metrics, indent=4))
        if job.plot_loss:
            save_loss_plot(watch(folder).curves, folder.loss_plot)
    if ranks.is_first_here and not recorder.is_stop_requested:
        remove_rows(recorder.folder)
    counts = vars(rows.counts if hasattr(rows, "counts") else rows.train.counts)
    return {
        "output_dir": str(folder.path), "metrics": metrics, "rows": counts, "saved_at": time.time(),
        "peak_memory_bytes": peak_memory_bytes(device),
    }  # fmt: skip


def ready(job: TrainJob, recorder: Recorder, choose: Callable[[Any], Any] = lambda rows: rows) -> Ready:
    """Load, encode, and put a trainer together: all that comes before the first step.

    Args:
        choose: which of the encoded rows are learned from; all of them where nothing is said.
    """
    ranks = Ranks.here()
    folder = recorder.folder if ranks.is_first else Folder(Path(job.output_dir or recorder.folder.path))
    if ranks.is_first:
        write_text(folder.training_args, write_yaml(job.values(), sort_keys=True))
    if ranks.is_first_here:
        tell_attempt(job, recorder)
    set_seed(job.seed)
    device = usable_device(recorder, ranks)
    ranks.join(device, job.ddp_timeout, job.training_arguments.get("ddp_backend"))
    chosen = precision(device, bf16=job.bf16, fp16=job.fp16, pure_bf16=job.pure_bf16)
    if chosen.is_changed:
        recorder.warn(chosen.reason_key, **chosen.facts)
    path = ranks.in_turn(
        lambda: local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir), recorder
    )
    if ranks.is_first_here:
        tell_models(job, path, recorder)
    recorder.phase("loading_tokenizer")
    tokenizer = load_tokenizer(path, job)
    rows = ranks.in_turn(lambda: rows_of(job, tokenizer, recorder), recorder)
    is_checkpointed = checkpointing(job, path, device, rows.train)
    arguments = training_arguments(job, folder, chosen, path, rows.evaluation is not None, is_checkpointed)
    recorder.phase("loading_model")
    address = load_address(job, device)
    model = model_of(path, job, chosen.weights, chosen.trained, address, tokenizer)
    recorder.event(parameters=count_parameters(model), precision=dataclasses.asdict(chosen), device=device.name)
    recorder.check_stop()
    if job.streaming and job.training_arguments.get("dataloader_num_workers", 0) > 1:
        recorder.warn("streaming_one_reader", asked=job.training_arguments["dataloader_num_workers"])
    trainer = trainer_of(
        job, model, tokenizer, chosen.weights, address, recorder,
        args=arguments, train_dataset=choose(rows.train), eval_dataset=rows.evaluation, callbacks=[Reporter(recorder)],
    )  # fmt: skip
    trainer.doctor = Doctor(job, chosen)
    trainer.optimizer_cls_and_kwargs = optimizer_of(job, arguments)
    if job.ladder:
        trainer.add_callback(Ladder(job, tokenizer, recorder))
    if ranks.is_first:
        begin_tracking(job)
    if job.early_stopping_steps:
        trainer.add_callback(EarlyStoppingCallback(job.early_stopping_steps))
    return Ready(device, ranks, folder, tokenizer, rows, trainer, Path(path))


def training_arguments(
    job: TrainJob,
    folder: Folder,
    chosen: Precision,
    path: str | Path,
    has_evaluation: bool,
    is_checkpointed: bool = False,
) -> TrainingArguments:
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
    if job.streaming:
        # One process reads, so that the order of the rows does not depend on how many there are; and what it hands
        # over are rows, not tensors that could be dealt out to several devices.
        ours["dataloader_num_workers"] = min(1, job.training_arguments.get("dataloader_num_workers", 0))
        ours["accelerator_config"] = {"dispatch_batches": False}
    if job.disable_shuffling:
        ours["train_sampling_strategy"] = "sequential"
    if job.use_swanlab and "swanlab" not in job.report_to:
        ours["report_to"] = [*(name for name in job.report_to if name != "none"), "swanlab"]
    calm = {
        "metric_for_best_model": "loss" if job.early_stopping_steps else None,
        "gradient_checkpointing": is_checkpointed,
        "logging_nan_inf_filter": False,  # a loss that is not a number is shown, not smoothed over
        "disable_tqdm": True,
        "dataloader_pin_memory": not chosen.is_cpu,
        **parallel_arguments(job, path),
    }
    kind, further = arguments_type(job)
    return kind(**{**calm, **given, **ours, **further})


def checkpoint_to_resume(job: TrainJob, folder: Folder, recorder: Recorder) -> str | None:
    """The checkpoint to go on from: the one asked for, else the last undamaged one of an unfinished run.

    Raises:
        UserError: the checkpoint asked for is not there, is not complete, or is damaged.
    """
    settle(folder.path, folder.saving)
    asked = job.resume_from_checkpoint
    if asked and asked.lower() not in ("true", "false"):
        file = damage(Path(asked))
        if file:
            is_there = (Path(asked) / STATE).is_file()
            raise UserError("checkpoint_damaged" if is_there else "checkpoint_missing", path=asked, file=file)
        return _told(Path(asked), recorder)
    if job.overwrite_output_dir or (asked and asked.lower() == "false"):
        return None
    for checkpoint in reversed(numbered(folder.path)):
        file = damage(checkpoint)
        if file is None:
            return _told(checkpoint, recorder)
        recorder.warn("checkpoint_skipped", path=checkpoint, file=file)
    return None


def _told(checkpoint: Path, recorder: Recorder) -> str:
    """The checkpoint, once it is said what cannot go on with it."""
    if lacks_optimizer(checkpoint):
        recorder.warn("resume.weights_only", path=checkpoint)
    return str(checkpoint)


def save(trainer: Trainer, tokenizer: Any, folder: Folder, ranks: Ranks, base: Path | None) -> None:
    """Write weights and tokenizer beside their final place first, so that no half of one ever has its final name.

    Every rank takes part, because where a model lies in shards each has some of it; only the first writes.

    Args:
        base: the model whose frozen weights are saved as they lie there; None: all is saved as it was computed with.
    """
    unfinished = folder.saving
    if ranks.is_first:
        shutil.rmtree(unfinished, ignore_errors=True)
    ranks.together()
    try:
        trainer.save_model(str(unfinished))
        if ranks.is_first:
            if base is not None:
                keep_frozen(unfinished, base, trainer.accelerator.unwrap_model(trainer.model))
            tokenizer.save_pretrained(unfinished)
            for path in sorted(unfinished.iterdir()):
                write_through(path)
                os.replace(path, folder.path / path.name)
    finally:
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
    ranks.together()


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {"trained": trained, "all": sum(count_numbers(parameter) for parameter in parameters)}
