"""The checkpoints of a run on the page: which are intact, why it cannot go on, and going on from an earlier one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.jobs import TrainJob
from engine.runs.checkpoints import seal
from engine.runs.folder import Folder
from engine.runs.read import read_job, read_state
from engine.runs.record import update_state, write_job
from engine.runs.stop import end_now
from tests.browser.steps import open_tab

STEPS = (10, 20, 30, 40)


@pytest.fixture
def stopped(workshop: Path, bundled_model: Path):
    """A run with four checkpoints, the last of them cut off, and another one that is done."""
    folder = Folder(workshop / "saves" / "c" / "lora" / "stopped")
    for run, status in ((folder, "stopped"), (Folder(folder.path.with_name("done")), "done")):
        run.path.mkdir(parents=True)
        job = TrainJob(
            model_name_or_path="models/SmolLM2-135M-Instruct", dataset=("identity",), max_steps=50,
            output_dir=f"saves/c/lora/{run.path.name}",
        )  # fmt: skip
        write_job(run, job, "en")
        update_state(run, kind="train", status=status, started_at=1e9, finished_at=1e9 + 60)
        for step in STEPS:
            _checkpoint(run, step)
    optimizer = folder.path / "checkpoint-40" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-5])
    yield folder
    shutil.rmtree(folder.path.parent)


def _checkpoint(run: Folder, step: int) -> None:
    path = run.path / f"checkpoint-{step}"
    path.mkdir()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_bytes(f"{name} {step}".encode() * 100)
    (path / "adapter_config.json").write_text("{}")
    lines = [{"step": at, "loss": 10 / at, "eval_loss": 20 / at} for at in STEPS if at <= step]
    (path / "trainer_state.json").write_text(json.dumps({"log_history": lines}))
    seal(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_are_shown_checked_and_gone_on_from(visit, stopped, workshop):
    scheduler = stopped.path / "checkpoint-20" / "scheduler.pt"
    scheduler.write_bytes(scheduler.read_bytes()[:-1] + b"?")
    page = visit()
    open_tab(page, "runs")
    page.locator('[data-run="c/lora/done"]').click()
    resume, note = page.locator("#run-resume"), page.locator("#run-resume-note")
    expect(note).to_contain_text("saves/c/lora/done is finished")
    expect(note).to_contain_text("resume_from_checkpoint=saves/c/lora/done/checkpoint-40")
    expect(resume).to_be_disabled()

    page.locator('[data-run="c/lora/stopped"]').click()
    expect(resume).to_have_text("Resume from step 30")
    expect(resume).to_be_enabled()
    page.locator("#run-checkpoints-box button").first.click()
    rows = page.locator("#run-checkpoints tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_contain_text("damaged: optimizer.pt")
    expect(rows.nth(0).locator("input")).to_be_disabled()
    expect(rows.nth(1)).to_contain_text("best latest")
    expect(rows.nth(1).locator(".loss")).to_have_text("0.3333")
    expect(rows.nth(1).locator(".eval_loss")).to_have_text("0.6667")
    expect(rows.nth(2).locator(".state")).to_have_text("complete, not yet read through")
    page.locator("#run-checkpoints-check").click()
    expect(page.locator("#run-checkpoints-said")).to_contain_text("checkpoint-20 (scheduler.pt), checkpoint-40")
    expect(rows.nth(2).locator(".state")).to_have_text("damaged: scheduler.pt")
    expect(rows.nth(1).locator(".state")).to_have_text("every byte checked")

    before = contents(stopped.path)
    known = set((workshop / "saves").rglob("job.yaml"))
    rows.nth(3).locator("input").check()
    expect(resume).to_have_text("New run from step 10")
    expect(note).to_contain_text("nothing of c/lora/stopped is changed")
    resume.click()
    expect(page.locator("#train-notice")).to_contain_text("goes on from step 10 of c/lora/stopped")
    (made,) = set((workshop / "saves").rglob("job.yaml")) - known
    branch = Folder(made.parent)
    assert read_job(branch).resume_from_checkpoint == "saves/c/lora/stopped/checkpoint-10"
    if not read_state(branch).has_ended:
        end_now(branch)
    shutil.rmtree(branch.path)
    assert contents(stopped.path) == before


def test_a_run_that_is_no_training_says_so_and_has_no_checkpoints(visit, stopped):
    update_state(stopped, kind="export")
    page = visit("de-DE", 390)
    open_tab(page, "runs")
    page.locator('[data-run="c/lora/stopped"]').click()
    expect(page.locator("#run-resume-note")).to_contain_text("Only trainings and evaluations can go on")
    expect(page.locator("#run-resume")).to_be_disabled()
    expect(page.locator("#run-checkpoints-box")).to_be_hidden()
