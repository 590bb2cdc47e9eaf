"""The log on the page: what is sought in it, a view that follows or keeps its place, and all of it to take away."""

from __future__ import annotations

import fcntl
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.runs.folder import Folder
from engine.runs.record import update_state
from engine.words import words
from tests.browser.steps import open_tab


@pytest.fixture
def talking(workshop: Path):
    """A training that runs, as far as anybody can see, and has printed 400 lines."""
    folder = Folder(workshop / "saves" / "talking" / "lora" / "train_1")
    folder.path.mkdir(parents=True)
    with folder.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        update_state(folder, kind="train", status="running", started_at=time.time())
        folder.log.write_text("".join(f"line {number} of <b>many</b>\n" for number in range(1, 401)))
        yield folder
    shutil.rmtree(folder.path.parent.parent)


def add(folder: Folder, text: str) -> None:
    with folder.log.open("a") as file:
        file.write(text)


def scroll_of(log) -> float:
    return log.evaluate("log => log.scrollTop")


def test_a_text_is_found_counted_and_marked_as_lines_come(visit, talking):
    page = visit()
    log = page.locator("#train-log")
    expect(log.locator(".log")).to_contain_text("line 400 of <b>many</b>")
    page.locator("#train-log-search input, #train-log-search textarea").fill("LINE 39")
    numbers = [39, *range(390, 400)]
    expect(log.locator(".hit .number")).to_have_text([str(number) for number in numbers])
    expect(log.locator(".log-count")).to_have_text(words("page.log_view.count", count=11))
    expect(log.locator("mark").first).to_have_text("line 39")
    assert log.locator(".hit b").count() == 0, "what a log says became markup"
    add(talking, "line 39 again\n")
    expect(log.locator(".hit .number").last).to_have_text("401")
    page.locator("#train-log-search input, #train-log-search textarea").fill("")
    expect(log.locator(".hit")).to_have_count(0)
    expect(log.locator(".log")).to_contain_text("line 39 again")


def test_the_view_follows_or_keeps_its_place(visit, talking):
    page = visit()
    log = page.locator("#train-log .log")
    expect(log).to_contain_text("line 400")
    add(talking, "line 401\n")
    expect(log).to_contain_text("line 401")
    assert scroll_of(log) == 0, "a reversed column is at its end at 0"
    page.locator("#train-log-follow input").uncheck()
    expect(page.locator("#train-log .log.kept")).to_have_count(1)
    log.evaluate("log => { log.scrollTop = 300; }")
    for number in (402, 403):
        add(talking, f"line {number}\n")
        expect(log).to_contain_text(f"line {number}")
        assert scroll_of(log) == 300
    page.locator("#train-log-follow input").check()
    expect(page.locator("#train-log .log.kept")).to_have_count(0)
    assert scroll_of(log) == 0


def test_the_whole_log_is_taken_away(visit, talking, tmp_path):
    add(talking, "x" * 50_000 + "\nend\n")
    page = visit()
    open_tab(page, "runs")
    page.locator('[data-run="talking/lora/train_1"]').click()
    page.locator("#run-log-box button").first.click()
    expect(page.locator("#run-log .log")).to_contain_text("end")
    with page.expect_download() as taken:
        page.locator("#run-log-take").click()
    assert taken.value.suggested_filename == "talking_lora_train_1.txt"
    taken.value.save_as(tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_bytes() == talking.log.read_bytes()
