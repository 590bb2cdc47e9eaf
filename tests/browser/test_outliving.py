"""Whatever dies, the run does not: servers killed one after the other, two at once, two browsers, the worker itself.

Here servers come and go, so each test serves the page by itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.read import is_alive, read_state
from engine.runs.start import start
from engine.runs.stop import end_now
from engine.words import words
from tests.browser.steps import open_tab
from tests.conftest import PROJECT
from tests.served import free_port, wait_for

pytestmark = pytest.mark.slow
KILLS = 10
JOB_MS = 240_000


@pytest.fixture
def serve(workplace: Path) -> Iterator[Callable[[int], subprocess.Popen]]:
    """``python app.py webui`` in the workplace on a port, once it answers; at the end nothing of it is left."""
    servers: list[subprocess.Popen] = []

    def begin(port: int) -> subprocess.Popen:
        log = workplace / "server.log"
        with log.open("ab") as file:
            server = subprocess.Popen(
                [sys.executable, str(PROJECT / "app.py"), "webui", "--port", str(port)], stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        servers.append(server)
        wait_for(f"http://127.0.0.1:{port}/", server, log)
        return server

    yield begin
    for server in servers:
        if server.poll() is None:
            end(server)


@pytest.fixture
def browse(chromium) -> Iterator[Callable[[int], Page]]:
    """A browser of its own that opens the page at a port."""
    contexts = []

    def open_page(port: int) -> Page:
        contexts.append(chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-US"))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#start").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def train(workplace: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Folder]]:
    """Start a training of the tiny model; at the end none is left."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the page wants a core too
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(16)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    started: list[Folder] = []

    def begin(name: str, **options) -> Folder:
        given = {
            "model_name_or_path": str(tiny_model), "dataset": "rows.json", "output_dir": f"saves/{name}",
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "logging_steps": 1,
            "preprocessing_num_workers": 1, "lora_dropout": 0.1, "learning_rate": 1e-2, **options,
        }  # fmt: skip
        started.append(start(TrainJob.from_values(given)))
        return started[-1]

    yield begin
    for folder in started:
        if is_alive(folder):
            end_now(folder, grace_s=1)


def end(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(20)


def steps_in(folder: Folder) -> list[int]:
    """The steps that have a loss, in the order in which they were written."""
    text = folder.events.read_text(encoding="utf-8") if folder.events.is_file() else ""
    lines = text.split("\n")[:-1]  # behind the last line break one may be torn
    return [event["current_steps"] for event in map(json.loads, lines) if "loss" in event]


def further(folder: Folder, steps: int) -> None:
    """Return once so many more steps have been taken."""
    aim, deadline = len(steps_in(folder)) + steps, time.monotonic() + JOB_MS / 1000
    while len(steps_in(folder)) < aim:
        assert time.monotonic() < deadline and is_alive(folder), folder.log.read_text()[-3000:]
        time.sleep(0.05)


def shown_steps(page: Page) -> int:
    """The step of which the card tells, once the server has read the log so far."""
    said = page.locator("#train-status .bar-line span").first
    expect(said).to_have_text(re.compile(r"\d"))
    return int(re.search(r"\d+", said.inner_text())[0])


def test_ten_kills_of_the_server_leave_no_hole(serve, browse, train):
    port, other_port = free_port(), free_port()
    server, _ = serve(port), serve(other_port)
    folder = train("long", max_steps=1_000_000, save_steps=1_000_000)
    page, second = browse(port), browse(other_port)
    further(folder, 1)
    worker = read_state(folder).pid
    for each in (page, second):
        expect(each.locator("#train-status .run-name")).to_have_text("long")
    for _ in range(KILLS):
        page.evaluate("window.isOld = true")
        end(server)
        further(folder, 3)
        server = serve(port)
        before = len(steps_in(folder))
        page.wait_for_function("() => !window.isOld")  # nobody reloads the page: it comes back by itself
        expect(page.locator("#train-status .run-name")).to_have_text("long")
        expect(page.locator("#train-status .chip.running")).to_be_visible()
        expect(page.locator("#train-curve .chart.large")).to_be_visible()
        assert shown_steps(page) >= before
    assert read_state(folder).pid == worker, "another worker has taken its place"

    # The other server, in another browser, was there all the time; what it is told to do, both see.
    expect(second.locator("#train-status .chip.running")).to_be_visible()
    second.locator("#stop").click()
    for each in (page, second):
        expect(each.locator("#train-status .chip.stopped")).to_be_visible(timeout=JOB_MS)
    steps = steps_in(folder)
    assert steps == list(range(1, len(steps) + 1)), "the curve has a hole"
    assert [path.name for path in folder.checkpoints()] == [f"checkpoint-{len(steps)}"]
    for each in (page, second):
        assert shown_steps(each) == len(steps)


def test_a_killed_worker_is_lost_and_resumed_to_the_same_loss(serve, browse, train):
    options = {"max_steps": 300, "save_steps": 20}
    folder = train("killed", **options)
    port = free_port()
    serve(port)
    page = browse(port)
    further(folder, 25)
    os.killpg(read_state(folder).pid, signal.SIGKILL)
    expect(page.locator("#train-status .chip.lost")).to_be_visible()
    assert len(steps_in(folder)) < 300, "it was done before it was killed"
    open_tab(page, "runs")
    page.locator('#runs-table [data-run="killed"]').click()
    expect(page.locator("#run-status .chip.lost")).to_be_visible()
    page.locator("#run-resume").click()
    expect(page.locator("#train-status .chip.done")).to_be_visible(timeout=JOB_MS)
    expect(page.locator("#train-status")).to_contain_text(words("page.progress.finished", time="").strip())

    whole = train("whole", **options)
    deadline = time.monotonic() + JOB_MS / 1000
    while not read_state(whole).has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert last_losses(folder) == last_losses(whole)
    results = [json.loads(each.results.read_text())["train_loss"] for each in (folder, whole)]
    assert results[0] == pytest.approx(results[1], rel=1e-9)


def last_losses(folder: Folder) -> dict[int, float]:
    """Loss by step, of a step that was done twice the later one; read from the file itself."""
    events = [json.loads(line) for line in folder.events.read_text(encoding="utf-8").splitlines()]
    return {event["current_steps"]: event["loss"] for event in events if "loss" in event}
