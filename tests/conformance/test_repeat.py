"""A run done again is, on the CPU, the same to the last digit; and what has changed since is noticed before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.errors import UserError  # noqa: E402
from engine.options.jobs import TrainJob  # noqa: E402
from engine.runs.card import card  # noqa: E402
from engine.runs.facts import read_facts  # noqa: E402
from engine.runs.folder import Folder  # noqa: E402
from engine.runs.record import Recorder, append_line, update_state, write_job  # noqa: E402
from engine.runs.repeat import first_difference, repeated_job  # noqa: E402
from engine.runs.start import folder_for  # noqa: E402
from engine.work.train import run  # noqa: E402

OPTIONS = {
    "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
    "logging_steps": 1, "save_steps": 3, "lora_dropout": 0.2, "plot_loss": False, "preprocessing_num_workers": 1,
    "cutoff_len": 64, "val_size": 2, "eval_strategy": "steps", "eval_steps": 2,
}  # fmt: skip


def do(job: TrainJob) -> Folder:
    folder = folder_for(job)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_job(folder, job, "en")
    update_state(folder, kind="train", status="running")
    update_state(folder, status="done", result=run(job, Recorder(folder)))
    return folder


@pytest.fixture
def trained(workplace, tiny_model) -> Folder:
    import shutil

    shutil.copytree(tiny_model, "base")
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(15)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    values = {**OPTIONS, "model_name_or_path": "base", "dataset": "rows.json", "output_dir": "saves/first"}
    return do(TrainJob.from_values(values))


def keys(problems) -> list[str]:
    return [problem.key for problem in problems]


def test_the_losses_are_equal_and_every_change_is_noticed(trained):
    repeat = repeated_job(trained)
    assert (repeat.refusals, repeat.warnings) == ([], [])
    assert repeat.job.output_dir is None and repeat.job.lora_dropout == 0.2
    again = do(repeat.job)
    assert again.path != trained.path and first_difference(trained, again) is None
    losses = [line for line in again.events.read_text().splitlines() if '"loss"' in line]
    assert len(losses) == 8
    told = card(again)
    assert all(each["sha256"] in told for each in read_facts(trained).datasets.values())
    assert read_facts(trained).models["model_name_or_path"] | {"path": ""} == read_facts(again).models[
        "model_name_or_path"
    ] | {"path": ""}
    append_line(again.events, {"current_steps": 9, "loss": 1.0})
    assert first_difference(trained, again) == 9

    # A run that was gone on with, from a checkpoint of its own, begins anew; from another's, it begins there again.
    for said, kept in (("true", None), (str(trained.path / "checkpoint-3"), None), ("elsewhere/checkpoint-3",) * 2):
        job = repeat.job.model_copy(update={"resume_from_checkpoint": said, "output_dir": "saves/first"})
        write_job(trained, job, "en")
        assert repeated_job(trained).job.resume_from_checkpoint == kept

    with Path("rows.json").open("a") as file:
        file.write(" ")
    assert keys(repeated_job(trained).refusals) == ["repeat.data_differs"]
    weights = Path("base/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert keys(repeated_job(trained).refusals) == ["repeat.data_differs", "repeat.model_differs"]
    Path("rows.json").unlink()
    assert keys(repeated_job(trained).refusals) == ["dataset_file_missing", "repeat.model_differs"]


@pytest.fixture
def told(workplace) -> Folder:
    """A run that says with what it was made, without being trained."""
    from engine.work.run_card import tell_attempt

    folder = Folder(Path("saves/told"))
    folder.path.mkdir(parents=True)
    job = TrainJob.from_values({"dataset": "identity", "output_dir": str(folder.path)})
    write_job(folder, job, "en")
    update_state(folder, kind="train", status="done")
    tell_attempt(job, Recorder(folder))
    return folder


def last_attempt(folder: Folder) -> dict:
    return json.loads(folder.events.read_text().splitlines()[-1])["attempt"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda attempt: attempt["versions"].update(torch="1.0"), "repeat.versions_differ"),
        (lambda attempt: attempt["versions"].update(other="1.0"), "repeat.versions_differ"),
        (lambda attempt: attempt["machine"][0].update(name="Abacus"), "repeat.machine_differs"),
        (lambda attempt: attempt.update(git={"commit": "0" * 40, "changed": []}), "repeat.code_differs"),
        (lambda attempt: attempt["options"].update(lora_rank=3), "repeat.changed_midway"),
        (lambda attempt: attempt["options"].update(output_dir="moved"), None),
    ],
)
def test_other_circumstances_are_warned_of(told, change, key):
    before = set(keys(repeated_job(told).warnings))
    attempt = last_attempt(told)
    change(attempt)
    append_line(told.events, {"attempt": attempt})
    assert set(keys(repeated_job(told).warnings)) - before == ({key} if key else set())


def test_a_gpu_agrees_only_nearly(told):
    attempt = last_attempt(told)
    attempt["machine"].append({"address": "cuda:0", "name": "T4", "memory_bytes": 1, "cores": 0})
    append_line(told.events, {"attempt": attempt})
    append_line(told.events, {"device": "T4"})
    assert "repeat.on_gpu" in keys(repeated_job(told).warnings)


def test_what_is_not_here_or_was_never_told_is_said(told):
    assert "repeat.not_compared" in keys(repeated_job(told).warnings), "its rows were never told"
    told.events.unlink()
    assert "repeat.nothing_known" in keys(repeated_job(told).warnings)


def test_a_hubs_model_is_taken_at_the_commit_that_was_used(told):
    commit = "0123456789" * 4
    write_job(told, TrainJob.from_values({"dataset": "identity", "model_name_or_path": "owner/model"}), "en")
    facts = {"role": "model_name_or_path", "name": "owner/model", "path": "gone", "bytes": 1, "sha256": "x"}
    append_line(told.events, {"model": {**facts, "revision": commit}})
    assert repeated_job(told).job.model_revision == commit


def test_other_jobs_are_not_repeated(told):
    update_state(told, kind="export")
    with pytest.raises(UserError) as refused:
        repeated_job(told)
    assert refused.value.key == "repeat.only_training"
