"""Who looks elsewhere is told: the title says how far the run is, and a notification that it has ended, once."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from engine.runs.folder import Folder
from engine.runs.record import update_state
from engine.words import words
from tests.browser.steps import WRITTEN

SECOND = "zh" if "zh" in WRITTEN else "en"
STUB = """
window.asked = 0;
window.shown = [];
window.Notification = class {
  static permission = localStorage.getItem('test-permission') ?? 'default';
  static async requestPermission() {
    window.asked += 1;
    Notification.permission = '%s';
    localStorage.setItem('test-permission', Notification.permission);
    return Notification.permission;
  }
  constructor(title, options) { window.shown.push({title, body: options.body}); }
};
"""

HIDE = """
Object.defineProperty(document, 'visibilityState', {get: () => 'hidden'});
Object.defineProperty(document, 'hidden', {get: () => true});
document.dispatchEvent(new Event('visibilitychange'));
window.requestAnimationFrame = () => 0;
"""
"""What a browser does with a tab that is not seen."""


class Run:
    """A training that is alive as long as its lock is held."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        folder.path.mkdir(parents=True)
        self._lock = folder.lock.open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        update_state(folder, kind="train", status="running", started_at=time.time())
        self.step(42)

    def step(self, step: int) -> None:
        with self.folder.events.open("a") as file:
            file.write(json.dumps({"current_steps": step, "total_steps": 100, "loss": 1.5}) + "\n")

    def end(self, status: str) -> None:
        update_state(self.folder, status=status, finished_at=time.time())
        self._lock.close()


@pytest.fixture
def run(workshop: Path) -> Iterator[Run]:
    made = Run(Folder(workshop / "saves" / "told" / "lora" / "train_1"))
    yield made
    made._lock.close()
    shutil.rmtree(made.folder.path.parent.parent)


def visited(visit: Any, answer: str, **options: Any) -> Any:
    page = visit(**options)
    page.context.add_init_script(STUB % answer)
    page.reload()
    page.locator("#start").wait_for()
    return page


def test_the_end_is_told_once_in_the_visitors_language(visit, run):
    page = visited(visit, "granted", locale=SECOND)
    expect(page).to_have_title("42 % · train_1 · Lathe")
    assert page.evaluate("asked") == 0
    page.locator("#notify").check()
    expect(page.locator("#notify")).to_be_checked()
    assert page.evaluate("asked") == 1
    page.reload()
    expect(page.locator("#notify")).to_be_checked()
    second = page.context.new_page()
    second.goto(page.url)
    for each in (page, second):
        expect(each).to_have_title("42 % · train_1 · Lathe")
    run.step(77)
    expect(page).to_have_title("77 % · train_1 · Lathe")
    run.end("done")
    for each in (page, second):
        expect(each).to_have_title("✓ train_1 · Lathe")
    told = page.evaluate("shown") + second.evaluate("shown")
    body = words("page.notify.body", SECOND, status=words("page.status.done", SECOND), loss="1.5")
    assert told == [{"title": "told/lora/train_1", "body": body}]
    later = page.context.new_page()
    later.goto(page.url)
    expect(later.locator("#run-facts [data-name]")).to_have_count(1)
    expect(later).to_have_title("Lathe")
    assert later.evaluate("shown") == []


def test_a_hidden_tab_tells_an_end_though_the_next_run_has_taken_its_place(visit, run, workshop):
    page = visited(visit, "granted")
    expect(page).to_have_title("42 % · train_1 · Lathe")
    page.locator("#notify").check()
    expect(page.locator("#notify")).to_be_checked()
    page.evaluate(HIDE)
    following = Run(Folder(workshop / "saves" / "told" / "lora" / "train_2"))
    run.end("failed")
    expect(page).to_have_title("42 % · train_2 · Lathe")
    page.wait_for_function("shown.length > 0")
    assert [each["title"] for each in page.evaluate("shown")] == ["told/lora/train_1"]
    following.end("done")


def test_a_browser_that_refuses_is_told_of(visit, run):
    page = visited(visit, "denied")
    expect(page).to_have_title("42 % · train_1 · Lathe")
    page.locator("#notify").click()
    expect(page.locator(".notify-said")).to_have_text(words("page.notify.denied"))
    expect(page.locator("#notify")).not_to_be_checked()
    run.end("done")
    expect(page).to_have_title("✓ train_1 · Lathe")
    assert page.evaluate("shown") == []


def test_an_origin_that_is_not_secure_is_told_of(visit):
    page = visit()
    page.context.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false});")
    page.reload()
    page.locator("#notify").click()
    expect(page.locator(".notify-said")).to_have_text(words("page.notify.insecure"))
    expect(page.locator("#notify")).not_to_be_checked()
