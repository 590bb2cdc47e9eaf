"""Runs of every kind and fate, written by hand: what the page looks like when much has happened on it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from engine.options.jobs import EvalJob, ExportJob, GgufJob, TrainJob
from engine.runs.checkpoints import seal
from engine.runs.folder import Folder
from engine.runs.record import append_line, update_state, write_job

MODEL = "models/SmolLM2-135M-Instruct"
STEPS = 400
LONG_NAME = "train_2030-01-01-00-00-03_with_a_rather_long_name_of_its_own"


def furnish(saves: Path) -> list[Folder]:
    """Fill an empty folder; returns the runs' folders, first a training that is done."""
    done = _training(saves / "SmolLM2-135M-Instruct" / "lora" / "train_2030-01-01-00-00-01", "done", lora_rank=8)
    slower = _training(saves / "SmolLM2-135M-Instruct" / "lora" / LONG_NAME, "stopped", learning_rate=1e-5)
    failed = _training(saves / "SmolLM2-135M-Instruct" / "freeze" / "train_2030-01-01-00-00-02", "failed")
    error = {"key": "out_of_memory", "facts": {"step": 7, "needed": "19 GB", "free": "16 GB", "detail": "CUDA"}}
    update_state(failed, error=error)
    failed.log.write_text("Traceback (most recent call last):\n" + '  File "train.py", line 41, in <module>\n' * 30)
    for folder in (done, slower):
        for step in (200, 400):
            _checkpoint(folder, step)
    return [done, slower, failed, *_evaluations(saves), _export(saves), _gguf(saves)]


def told(step: int, slowness: float = 1.0) -> dict[str, float]:
    """A line of the log of a training, with some unrest in its loss."""
    loss = 2.6 / (1 + step / (60 * slowness)) + 0.6 + 0.12 * math.sin(step * 1.7) * math.cos(step * 0.31)
    found = {
        "current_steps": step, "total_steps": STEPS, "elapsed_time": "0:02:09", "remaining_time": "0:00:00",
        "loss": loss, "lr": 1e-4 * (1 - step / (STEPS + 1)), "epoch": step / 100, "grad_norm": 1.5 + math.sin(step),
        "throughput": 1900 + 60 * math.sin(step / 9),
    }  # fmt: skip
    return found | ({"eval_loss": loss * 0.93 + 0.1} if step % 50 == 0 else {})


def _training(path: Path, status: str, **options: Any) -> Folder:
    folder = _run(path, TrainJob.from_values({"dataset": "identity", **options}), "train", status)
    slowness = 2.0 if "learning_rate" in options else 1.0
    for step in range(1, STEPS + 1, 2 if slowness > 1 else 1):
        append_line(folder.events, told(step, slowness))
    append_line(folder.events, told(STEPS, slowness))
    folder.log.write_text("".join(f"[INFO] step {step}: loss {told(step)['loss']:.4f}\n" for step in range(1, 80)))
    return folder


def _checkpoint(folder: Folder, step: int) -> None:
    path = folder.path / f"checkpoint-{step}"
    path.mkdir()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_bytes(f"{name} {step}".encode() * 100)
    for target in (path, folder.path):
        (target / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": MODEL}))
    lines = [{"step": at, "loss": told(at)["loss"], "eval_loss": told(at)["eval_loss"]} for at in (200, 400)]
    (path / "trainer_state.json").write_text(json.dumps({"log_history": lines}))
    seal(path)


def _evaluations(saves: Path) -> list[Folder]:
    folders = []
    for number in (1, 2):
        path = saves / "SmolLM2-135M-Instruct" / "eval" / f"eval_2030-01-01-00-00-0{number}"
        folder = _run(path, EvalJob.from_values({"dataset": "identity"}), "eval", "done")
        metrics = {"eval_loss": 1.25, "predict_token_f1": 50.5, "predict_exact_match": 33.3, "predict_samples": 30}
        update_state(folder, result={"metrics": metrics, "output_dir": str(path)})
        for index in range(30):
            answer = "yes" if (index + number) % 3 else "I am Lathe, a small model that was taught who it is. " * 6
            right = 100.0 * (answer == "yes")
            append_line(folder.predictions, {
                "index": index, "dataset": "identity", "row": index + 1, "prompt": f"Who are you, really? ({index})",
                "predict": answer, "label": "yes", "scores": {"exact_match": right, "token_f1": 3.0 * index},
            })  # fmt: skip
        folders.append(folder)
    return folders


def _export(saves: Path) -> Folder:
    job = ExportJob.from_values({"adapter_name_or_path": "saves/x", "export_dir": "merged/SmolLM2-135M-Instruct"})
    folder = _run(saves / "SmolLM2-135M-Instruct" / "export" / "export_2030-01-01-00-00-01", job, "export", "done")
    result = {"export_dir": "merged/SmolLM2-135M-Instruct", "size_bytes": 269e6,
              "verified": {"logit_max_difference": 1.2e-5}}  # fmt: skip
    update_state(folder, result=result)
    return folder


def _gguf(saves: Path) -> Folder:
    folder = _run(saves / "SmolLM2-135M-Instruct" / "gguf" / "gguf_2030-01-01-00-00-01", GgufJob(), "gguf", "done")
    modelfile = folder.path / "Modelfile"
    modelfile.write_text("FROM ./SmolLM2-135M-Instruct-f16.gguf\n" + 'TEMPLATE """{{ .Prompt }}"""\n' * 12)
    compared = {
        "tensors": 272, "logit_max_difference": 3e-3, "divergence": 2.1e-5, "greedy_equal": [16, 16, 15],
        "greedy_tokens": 16, "top_k_equal": 0.98, "perplexity": 12.34, "perplexity_source": 12.31,
    }  # fmt: skip
    files = [
        {"outfile": f"SmolLM2-135M-Instruct-{name}.gguf", "outtype": name, "size_bytes": size, "verified": compared}
        for name, size in (("f16", 271e6), ("q8_0", 145e6))
    ]
    update_state(folder, result={"outfile": files[0]["outfile"], "files": files, "modelfile": str(modelfile),
                                 "verified": compared, "size_bytes": 271e6})  # fmt: skip
    return folder


def _run(path: Path, job: Any, kind: str, status: str) -> Folder:
    folder = Folder(path)
    path.mkdir(parents=True)
    write_job(folder, job, "en")
    update_state(folder, kind=kind, status=status, started_at=1.9e9, finished_at=1.9e9 + 129)
    return folder
