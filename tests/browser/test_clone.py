"""What a run was asked for, taken into the form of a fresh page: the preview says the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.command import job_from, parse
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import update_state, write_job
from tests.browser.steps import add_name, open_tab, preview_words

ASKED = {
    "model_name_or_path": "some/where else", "template": "qwen", "stage": "dpo", "finetuning_type": "lora",
    "dataset": "dpo_en_demo,identity", "eval_dataset": "identity", "adapter_name_or_path": "saves/a/one",
    "lora_rank": 12, "lora_alpha": 24.5, "lora_target": "q_proj,v_proj", "lora_dropout": 0.33,
    "learning_rate": 1.23456789e-5, "num_train_epochs": 0.5, "per_device_train_batch_size": 3, "cutoff_len": 777,
    "pref_loss": "sigmoid", "pref_beta": 0.07, "warmup_steps": 0.25, "packing": False, "bf16": False, "seed": 7,
    "quantization_bit": 4, "quantization_method": "bnb", "double_quantization": False, "adam_beta2": 0.9876,
    "weight_decay": 0.01, "logging_first_step": True, "default_system": 'Say "yes".\nOr no.',
    "lr_scheduler_type": "cosine", "output_dir": "saves/here", "on_finish": "true",
}  # fmt: skip


@pytest.fixture
def runs(workshop: Path):
    """A run with many options, and one that is asked for nothing but its data."""
    made = []
    for name, asked in (("much", ASKED), ("little", {"dataset": "identity", "finetuning_type": "full"})):
        folder = Folder(workshop / "saves" / "c" / "lora" / name)
        folder.path.mkdir(parents=True)
        write_job(folder, job_from(TrainJob, asked).job, "en")
        update_state(folder, kind="train", status="failed", started_at=1e9, finished_at=1e9 + 60)
        made.append(folder)
    yield made
    shutil.rmtree(workshop / "saves" / "c")


def taken(page, name: str) -> TrainJob:
    """The job that the form says after a click."""
    open_tab(page, "runs")
    page.locator(f'[data-run="c/lora/{name}"]').click()
    expect(page.locator("#run-status .run-name")).to_have_text(f"c/lora/{name}")
    page.locator("#run-clone").click()
    expect(page.locator("#train-notice")).to_contain_text(f"c/lora/{name}")
    expect(page.locator("#train-notice")).to_contain_text("only: on_finish" if name == "much" else "start it")
    page.locator("#preview-command").click()
    job = parse(TrainJob, preview_words(page)[3:]).job
    page.locator("#preview-command").click()
    return job


def expected(asked: dict) -> dict:
    kept = {name: value for name, value in asked.items() if name not in ("output_dir", "on_finish")}
    return job_from(TrainJob, kept).job.values()


def test_the_form_says_what_the_run_was_asked_for_on_a_fresh_page(visit, runs):
    page = visit()
    assert taken(page, "much").values() == expected(ASKED)
    # and nothing of it is left when another run is taken into the same form
    assert taken(page, "little").values() == expected({"dataset": "identity", "finetuning_type": "full"})


def test_further_options_are_refused_where_they_do_not_belong(visit):
    page = visit()
    open_tab(page, "train")
    add_name(page, "dataset", "identity")
    page.locator("#train-advanced > button").click()
    box = page.locator("#further_options textarea")
    for said, told in (
        ("adam_beta2: 0.5\nlora_rank: 4", "has a field of its own"),
        ("on_finish: touch /tmp/x", "on the command line only"),
        ("trust-remote-code: true", "on the command line only"),
        ("adam_beta2: [", "cannot be read"),
        ("adam_beta2", "one a line"),
        ("adam_beta3: 0.5", "adam_beta2"),
    ):
        box.fill(said)
        page.locator("#preview-command").click()
        expect(page.locator("#train-notice")).to_contain_text(told)
    box.fill("adam_beta2: 0.5")
    page.locator("#preview-command").click()
    assert "--adam_beta2" in preview_words(page)
