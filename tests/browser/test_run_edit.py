"""Title, note, Delete… and Discard… on the page, and what a second visitor sees of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.notes import Notes, read_notes, rename
from engine.runs.read import is_alive
from engine.runs.record import update_state, write_job
from engine.words import words
from tests.browser.steps import WRITTEN, open_tab
from tests.conftest import PROJECT

SECOND = "ru" if "ru" in WRITTEN else "en"
WORKER = """
import fcntl, os, sys, time
from pathlib import Path
from engine.runs.folder import Folder
from engine.runs.record import update_state
folder = Folder(Path(sys.argv[1]))
lock = folder.lock.open("ab")
fcntl.flock(lock, fcntl.LOCK_EX)
update_state(folder, status="running", pid=os.getpid())
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def made(workshop: Path) -> Iterator[Callable[[str], Folder]]:
    def make(name: str) -> Folder:
        folder = Folder(workshop / "saves" / "edited" / "lora" / name)
        folder.path.mkdir(parents=True)
        write_job(folder, TrainJob(dataset=("identity",)), "en")
        now = time.time()
        update_state(folder, kind="train", status="stopped", started_at=now, finished_at=now)
        (folder.path / "checkpoint-4").mkdir()
        (folder.path / "checkpoint-4" / "trainer_state.json").write_text("{}")
        folder.log.write_text("x" * 2_500_000)
        return folder

    yield make
    shutil.rmtree(workshop / "saves" / "edited", ignore_errors=True)


@pytest.fixture
def alive(made) -> Iterator[tuple[Folder, subprocess.Popen]]:
    folder = made("train_2026-01-02-03-04-06")
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, folder.path], env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    threading.Thread(target=process.wait, daemon=True).start()
    assert process.stdout.readline() == "ready\n"
    yield folder, process
    process.kill()
    process.stdout.close()


def chosen(page: Page, name: str) -> None:
    open_tab(page, "runs")
    page.locator(f'[data-run="edited/lora/{name}"] td.name').click()
    expect(page.locator("#run-status .run-name")).to_contain_text(name)


def test_a_run_is_renamed_noted_and_deleted_for_all_visitors(visit, made):
    name, other = "train_2026-01-02-03-04-05", "train_2026-01-02-03-04-01"
    made(other)
    folder = made(name)
    page, second = visit(), visit(locale=SECOND)
    chosen(page, name)
    chosen(second, name)
    title, note = page.get_by_label(words("run_edit.title")), page.get_by_label(words("run_edit.note"))
    title.fill("Small <poems> ${1}")
    title.press("Enter")
    note.press_sequentially("lower rate,\nlonger", delay=120)  # while the title is saved and drawn anew
    expect(page.locator("#run-status .run-name")).to_contain_text("Small <poems> ${1}")
    expect(second.locator("#run-status .run-name")).to_contain_text("Small <poems> ${1}")
    expect(second.get_by_label(words("run_edit.title", SECOND))).to_have_value("Small <poems> ${1}")
    note.blur()
    expect(page.locator("#runs-notice")).to_contain_text(words("run_edit.note_kept", name=f"edited/lora/{name}"))
    expect(second.get_by_label(words("run_edit.note", SECOND))).to_have_value("lower rate,\nlonger")
    expect(page.locator(f'#runs-table [data-run="edited/lora/{name}"]')).to_contain_text("Small <poems>")
    assert read_notes(folder) == Notes("Small <poems> ${1}", "lower rate,\nlonger")

    # What is asked of one run is asked no more once another is looked at.
    page.locator("#run-edit [data-act=delete]").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("2.5 MB")
    expect(question).to_contain_text("checkpoint-4")
    expect(question.get_by_role("button", name=words("run_edit.keep"))).to_be_focused()
    chosen(page, other)
    expect(question).to_have_count(0)
    chosen(page, name)
    expect(page.get_by_label(words("run_edit.title"))).to_have_value("Small <poems> ${1}")
    expect(question).to_have_count(0)

    # Kept; then asked again, and begun anew by somebody else before the answer.
    page.locator("#run-edit [data-act=delete]").click()
    question.get_by_role("button", name=words("run_edit.keep")).click()
    expect(question).to_have_count(0)
    page.locator("#run-edit [data-act=delete]").click()
    expect(question).to_be_visible()
    update_state(folder, started_at=time.time() + 1)
    question.get_by_role("button", name=words("run_edit.for_good")).click()
    expect(page.locator("#runs-notice .error")).to_contain_text(f"edited/lora/{name}")
    assert folder.log.is_file()

    page.locator("#run-edit [data-act=delete]").click()
    question.get_by_role("button", name=words("run_edit.for_good")).click()
    expect(page.locator("#runs-notice .good")).to_contain_text(name)
    expect(page.locator(f'#runs-table [data-run="edited/lora/{name}"]')).to_have_count(0)
    expect(second.locator(f'#runs-table [data-run="edited/lora/{name}"]')).to_have_count(0)
    expect(second.locator("#run-status .run-name")).not_to_contain_text(name)
    assert not folder.path.exists()
    rename(Folder(folder.path.with_name(other)), "the other is untouched")


def test_a_living_run_is_discarded(visit, alive):
    folder, process = alive
    page, second = visit(), visit(locale=SECOND, width=390)
    chosen(page, folder.path.name)
    chosen(second, folder.path.name)
    page.locator("#run-edit [data-act=delete]").click()
    expect(page.locator("#runs-notice .error")).to_contain_text("Discard…")
    page.locator("#run-discard").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text(f"edited/lora/{folder.path.name} would be stopped at once")
    assert is_alive(folder)
    question.get_by_role("button", name=words("run_edit.discard_for_good")).click()
    expect(page.locator("#runs-notice .good")).to_contain_text(folder.path.name)
    expect(second.locator(f'#runs-table [data-run="edited/lora/{folder.path.name}"]')).to_have_count(0)
    expect(second.locator("#run-discard")).to_be_hidden()
    assert process.wait(10) != 0 and not folder.path.exists()
