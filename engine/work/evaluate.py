"""An evaluation from its first line to its last: load, measure the loss, write answers, score them, keep the numbers.

Every batch is on the disk before the next one begins, so a run that was stopped or killed goes on with the next batch
and ends with the same numbers. What is measured is said in docs/evaluate.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from engine.catalog.devices import Device, precision, recommended_threads
from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import EvalJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested, write_text
from engine.work.answers import StopWords
from engine.work.batched_answers import answer_all
from engine.work.batching import collate
from engine.work.choices import measure_choices
from engine.work.dataset import Rows, remove_rows
from engine.work.device import usable_device
from engine.work.download import local_model
from engine.work.generate import end_ids
from engine.work.kept_lines import KeptLines
from engine.work.load import apply_adapters, load_model, load_tokenizer
from engine.work.loss import sequence_logps
from engine.work.metrics import row_scores, total_scores
from engine.work.questions import Question, by_length, measured_rows, questions
from engine.work.rope import longest
from engine.work.shortage import is_shortage, shortage

IN_ANY_FOLDER = ("output_dir", "overwrite_output_dir", "preprocessing_num_workers")
"""Options that change no number."""


class Loaded(NamedTuple):
    """A model that is measured."""

    model: Any
    tokenizer: Any
    device: Device
    room: int  # tokens that it reads at most


def run(job: EvalJob, recorder: Recorder) -> dict[str, Any]:
    """Measure what the job names. Returns the numbers, which are in the run's folder as well.

    Raises:
        UserError: something that the job names is missing or does not fit, or memory ran out.
        StopRequested: somebody asked for it; what is measured is kept.
    """
    try:
        return _run(job, recorder)
    except Exception as error:
        if not is_shortage(error):
            raise
        raise UserError("eval.out_of_memory", size=job.per_device_eval_batch_size, **shortage(error)) from error


def _run(job: EvalJob, recorder: Recorder) -> dict[str, Any]:
    folder = recorder.folder
    device = usable_device(recorder)
    path = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    recorder.phase("loading_tokenizer")
    tokenizer = load_tokenizer(path, job)
    rows = None if job.task else measured_rows(job, tokenizer, recorder)
    recorder.check_stop()
    recorder.phase("loading_model")
    loaded = load(job, path, tokenizer, device)
    take_up(folder, measured_with(job, path, rows))
    metrics = measure_choices(job, loaded, recorder) if rows is None else _measure_rows(job, loaded, rows, recorder)
    recorder.phase("saving")
    write_text(folder.results, json.dumps(metrics, indent=4, ensure_ascii=False))
    remove_rows(folder)
    return {"output_dir": str(folder.path), "metrics": metrics, "saved_at": time.time()}


def load(job: EvalJob, path: str | Path, tokenizer: Any, device: Device) -> Loaded:
    """The model with its adapters. On a CPU in float32, where numbers hardly depend on which rows share a batch."""
    torch.set_num_threads(recommended_threads())
    name = job.infer_dtype
    if name == "auto":
        name = "float32" if device.is_cpu else precision(device).weights
    model = load_model(path, job, getattr(torch, name), device.address)
    if job.adapters:
        model = apply_adapters(model, job.adapters)
    return Loaded(model.eval(), tokenizer, device, longest(model.config.get_text_config()) or 2**31)


def measured_with(job: EvalJob, path: str | Path, rows: Rows | None) -> dict[str, Any]:
    """All that the lines of an evaluation depend on: options, weights, rows, libraries."""
    options = {name: value for name, value in job.values().items() if name not in IN_ANY_FOLDER}
    files = _files_in([Path(path), *map(Path, job.adapters)], ".safetensors", ".bin")
    if job.task:
        files += _files_in([Path(job.task_dir).expanduser()], ".csv", ".zip", ".json")
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256()
    for row in rows or ():
        digest.update(json.dumps([row.input_ids, row.labels]).encode())
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    content = {"options": options, "files": stamps, "rows": digest.hexdigest(), "versions": versions}
    return json.loads(json.dumps(content))


def take_up(folder: Folder, now: dict[str, Any]) -> None:
    """Keep the lines of an earlier attempt only if it measured exactly the same."""
    try:
        before = json.loads(folder.measured_with.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != now:
        for path in (folder.predictions, folder.row_losses, folder.predict_results, folder.results):
            path.unlink(missing_ok=True)
        write_text(folder.measured_with, json.dumps(now, ensure_ascii=False))


def _measure_rows(job: EvalJob, loaded: Loaded, rows: Rows, recorder: Recorder) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    losses: list[dict[str, Any]] = []
    if job.do_eval:
        losses = measure_losses(job, loaded, rows, recorder)
        metrics |= loss_of(losses)
    if job.do_predict and job.has_effect("do_predict"):
        asked = questions(job, rows, loaded.tokenizer, loaded.room - 1, recorder)
        cut = sum(question.is_cut for question in asked)
        if cut:
            recorder.warn("eval.prompts_cut", rows=cut, cutoff=min(job.cutoff_len, loaded.room - 1))
        kept = write_answers(job, loaded, asked, recorder)
        by_row = {line["index"]: line for line in losses}
        for line in kept.lines:
            if line["index"] in by_row:
                line["scores"]["loss"] = round(by_row[line["index"]]["loss"], 6)
        kept.finish(kept.lines)
        scores = {f"predict_{name}": value for name, value in total_scores(kept.lines, job).items()}
        scores |= {
            "predict_samples": len(kept.lines),
            "predict_cut_off": sum(line["is_cut_off"] for line in kept.lines),
        }
        write_text(recorder.folder.predict_results, json.dumps(scores, indent=4))
        metrics |= scores
    return metrics


def measure_losses(job: EvalJob, loaded: Loaded, rows: Rows, recorder: Recorder) -> list[dict[str, Any]]:
    """The mean negative log-likelihood of each row's learned tokens, in nats, and how many these are."""
    batches = by_length(rows.lengths(), job.per_device_eval_batch_size)
    places = list(zip(rows.table["dataset"], rows.table["row"], strict=True))
    kept = KeptLines(recorder.folder.row_losses, batches)
    for batch in kept.open_batches:
        recorder.phase("measuring_loss", len(kept.lines), len(rows), "rows")
        recorder.check_stop()
        tensors = collate([rows[index] for index in batch], loaded.tokenizer.pad_token_id)
        tensors = {name: tensor.to(loaded.device.address) for name, tensor in tensors.items()}
        with torch.no_grad():
            sums, counts = sequence_logps(loaded.model, tensors, len(batch))
        kept.add([
            {"index": index, "dataset": places[index][0], "row": places[index][1], "loss": -total / count,
             "tokens": int(count)}
            for index, total, count in zip(batch, sums.tolist(), counts.tolist(), strict=True)
        ])  # fmt: skip
    recorder.phase("measuring_loss", len(rows), len(rows), "rows")
    kept.finish(kept.lines)
    return kept.lines


def loss_of(lines: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The mean over all learned tokens, not over rows: a long answer counts for as much as it has tokens."""
    lines = list(lines)
    count = sum(line["tokens"] for line in lines)
    loss = math.fsum(line["loss"] * line["tokens"] for line in lines) / count
    perplexity = math.exp(loss) if loss < 700 else math.inf  # beyond, a float has no room for it
    return {"eval_loss": loss, "eval_perplexity": perplexity, "eval_samples": len(lines), "eval_tokens": count}


def write_answers(job: EvalJob, loaded: Loaded, asked: list[Question], recorder: Recorder) -> KeptLines:
    """Answer every question, the longest first, and keep each batch at once."""
    batches = by_length([len(question.ids) for question in asked], job.per_device_eval_batch_size)
    kept = KeptLines(recorder.folder.predictions, batches)
    ends = end_ids(loaded.model, loaded.tokenizer, job)
    template = named_template(job)
    seed = job.seed if job.sampling_seed is None else job.sampling_seed
    for batch in kept.open_batches:
        recorder.phase("answering", len(kept.lines), len(asked), "rows")
        recorder.check_stop()
        answers = answer_all(
            loaded.model, [asked[index].ids for index in batch], loaded.tokenizer, job, ends, loaded.room,
            seed + batch[0], lambda: recorder.is_stop_requested,
        )  # fmt: skip
        if recorder.is_stop_requested:
            raise StopRequested  # these answers may have been cut off by it
        lines = []
        for index, answer in zip(batch, answers, strict=True):
            question = asked[index]
            limit = min(job.max_new_tokens, loaded.room - len(question.ids))
            text = loaded.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            words = StopWords(template.stop if template else ())
            predict = words.add(text) + ("" if words.is_found else words.finish())
            lines.append({
                "index": index, "dataset": question.dataset, "row": question.row, "prompt": question.prompt,
                "predict": predict, "label": question.label, "tokens": len(answer),
                "is_cut_off": len(answer) >= limit, "scores": row_scores(predict, question.label, job),
            })  # fmt: skip
        kept.add(lines)
    recorder.phase("answering", len(asked), len(asked), "rows")
    return kept


def _files_in(folders: Iterable[Path], *suffixes: str) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in suffixes)
