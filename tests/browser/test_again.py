"""A run again with options changed, on the page: what will be made is told while one types, and made once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from engine.options.jobs import TrainJob
from engine.runs.folder import SAVES, Folder
from engine.runs.queue import waiting
from engine.runs.read import read_job
from engine.runs.record import update_state, write_job
from engine.words import words
from tests.browser.steps import WRITTEN, fill, open_tab

pytestmark = pytest.mark.slow
JOB = TrainJob(dataset=("identity",), seed=7, output_dir="saves/again/source", resume_from_checkpoint="true")


@pytest.fixture
def source(busy) -> Iterator[Folder]:
    """A finished run, later than the one that holds the devices."""
    folder = Folder(SAVES / "again" / "source")
    folder.path.mkdir(parents=True)
    write_job(folder, JOB, "en")
    update_state(folder, kind="train", status="done", started_at=time.time(), finished_at=time.time())
    yield folder
    shutil.rmtree(folder.path)


def open_again(page: Page, run: Folder, language: str = "en") -> None:
    open_tab(page, "runs")
    page.locator(f'[data-run="{run.name}"]').click()
    page.locator("#run-again").get_by_role("button", name=words("page.again.title", language)).click()


def choose_option(page: Page, which: str, typed: str, name: str) -> None:
    expect(page.get_by_role("option")).to_have_count(0)  # of the list before
    box = page.locator(f"#again-{which} input")
    box.click()
    box.fill(typed)
    page.get_by_role("option", name=name).click()


def test_two_options_with_two_values_each_make_four_runs_once(visit, source):
    page = visit()
    open_again(page, source)
    rank, rate = page.locator("#again-second-values"), page.locator("#again-option-values")
    expect(rate.locator("input, textarea")).to_have_attribute("placeholder", "0.0001")
    expect(page.locator("#again-queue")).to_be_disabled()
    page.locator("#again-option input").click()
    offered = page.get_by_role("option").all_inner_texts()
    assert offered and not [each for each in offered if "on_finish" in each or "trust_remote_code" in each]
    page.locator("#again-option input").blur()
    choose_option(page, "option", "scheduler", "lr_scheduler_type")
    expect(page.locator("#again-option-values")).to_contain_text("cosine_with_restarts")
    choose_option(page, "second", "lora_rank", "lora_rank")
    expect(rank.locator("input, textarea")).to_have_attribute("placeholder", "8")
    fill(page, "again-option-values", "linear, cosine")
    fill(page, "again-second-values", "4, none at all")
    plan = page.locator("#again-plan")
    expect(plan).to_contain_text("none at all")
    expect(page.locator("#again-queue")).to_be_disabled()
    assert waiting() == []

    fill(page, "again-second-values", "4, 16")
    expect(plan.locator("li")).to_have_text(
        [f"lr_scheduler_type {kind} · lora_rank {rank}" for kind in ("linear", "cosine") for rank in (4, 16)]
    )
    expect(page.locator("#again-queue")).to_have_text(words("page.again.queue", count=4))
    page.locator("#again-queue").dblclick()
    expect(page.locator("#queue li")).to_have_count(4)
    notice = page.locator("#train-notice")
    for place, each in enumerate(waiting(), start=1):
        expect(notice).to_contain_text(f"{each.folder.name}: {words('page.again.place', place=place)}")
    jobs = [read_job(each.folder) for each in waiting()]
    expected = [
        JOB.model_copy(
            update={
                "lr_scheduler_type": kind, "lora_rank": rank, "output_dir": None, "resume_from_checkpoint": None,
            }
        )
        for kind in ("linear", "cosine") for rank in (4, 16)
    ]  # fmt: skip
    assert jobs == expected and read_job(source) == JOB


def test_why_it_cannot_be_done_again_is_said(visit, source):
    source.job.write_text("options: [")
    page = visit()
    open_again(page, source)
    fill(page, "again-option-values", "1e-5")
    expect(page.locator("#again-plan")).to_contain_text("job.yaml")
    expect(page.locator("#again-queue")).to_be_disabled()


@pytest.mark.parametrize("code", WRITTEN)
def test_it_fits_a_phone_and_speaks_every_language(visit, source, code):
    phone = visit(locale=code, width=390)
    open_again(phone, source, code)
    box = phone.locator("#again-option-values input, #again-option-values textarea")
    expect(box).to_have_attribute("placeholder", "0.0001")
    fill(phone, "again-option-values", "1e-5, 1e-3")
    expect(phone.locator("#again-queue")).to_have_text(words("page.again.queue", code, count=2))
    expect(phone.locator("#again-plan")).to_contain_text(words("page.again.makes", code, count=2))
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
