"""A run that failed, on the page: why, when, and a zip to take away."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import update_state, write_job
from tests.browser.steps import open_tab


@pytest.fixture
def failed(workshop: Path):
    folder = Folder(workshop / "saves" / "m" / "lora" / "failed")
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob(dataset=("gone.json",)), "en")
    error = {"key": "disk_full", "facts": {"detail": "no room"}}
    update_state(folder, kind="train", status="failed", started_at=1e9, finished_at=1e9 + 60, error=error)
    folder.log.write_text("first\nusing hf_" + "aB3dE6gH" * 4 + "\nlast line\n")
    yield folder
    import shutil

    shutil.rmtree(folder.path)


def test_a_failed_run_says_why_and_when_and_gives_a_zip(visit, failed, tmp_path):
    page = visit()
    open_tab(page, "runs")
    page.locator('[data-run="m/lora/failed"]').click()
    card = page.locator("#run-status")
    expect(card.locator('[data-cause="disk"]')).to_contain_text("Cause: the disk.")
    expect(card).to_contain_text("ended 2001-09-09")
    card.locator("summary").click()
    expect(card.locator("pre")).to_contain_text("last line")
    with page.expect_download() as taken:
        page.locator("#run-diagnose").click()
    target = tmp_path / "taken.zip"
    taken.value.save_as(target)
    assert taken.value.suggested_filename == "diagnostics-m_lora_failed.zip"
    with zipfile.ZipFile(target) as archive:
        log = archive.read("log.txt").decode()
    assert "last line" in log and "hf_" not in log
    page.locator("#run-repeat").click()
    expect(page.locator("#runs-notice")).to_contain_text("gone.json")
