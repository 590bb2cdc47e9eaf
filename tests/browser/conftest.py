"""A served page in a workplace of its own, and Chromium to look at it; every page is watched for faults."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.catalog.devices import devices
from engine.runs.folder import SAVES, Folder
from engine.runs.queue import cancel, keep_going, resume, waiting
from engine.runs.record import update_state
from engine.runs.seats import seat_of, sit
from tests.served import free_port, new_workshop, served

CUT_OFF = (
    "console: AbortError: signal is aborted", "console: Unexpected error Connection errored out",
    "console: Unexpected client exception TypeError: Cannot read properties of undefined",  # what streamed goes on
)  # fmt: skip


@pytest.fixture(scope="session")
def workshop(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served page's working directory: the project's data and models, and nothing that was done before."""
    return new_workshop(tmp_path_factory)


@pytest.fixture(scope="session")
def ollama_port() -> int:
    """Where the page looks for an Ollama server; nobody is there until a test is."""
    return free_port()


@pytest.fixture(scope="session")
def address(workshop: Path, ollama_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where ``python app.py webui`` serves the page, which may also use what the tests put elsewhere."""
    with served(workshop, ollama_port, tmp_path_factory.getbasetemp()) as address:
        yield address


@pytest.fixture
def visit(chromium, address: str) -> Iterator[Callable]:
    """Open the page as a new visitor: ``visit(locale, width, query)``. At the end no page may have had a fault:
    no error in the console, no uncaught exception, no request to another host, no answer of status 400 or more.
    Gradio reports answers that a reload or a closed tab cuts off; those reports are then no fault."""
    contexts, faults = [], []

    def open_page(locale: str = "en-US", width: int = 1440, query: str = "", **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, locale=locale, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on("response", lambda answer: answer.status >= 400 and faults.append(f"{answer.status} {answer.url}"))
        page.on("request", lambda request: _note_host(request.url, address, faults))
        page.reload = _leaving(page.reload, faults)
        page.goto(address + query)
        page.locator("#start").wait_for(timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        _leaving(context.close, faults)()
    assert not faults, "\n".join(faults)


@pytest.fixture
def busy(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A training that holds every device of this machine; at the end nothing waits, and nothing of this is left."""
    monkeypatch.chdir(workshop)
    folder = Folder(SAVES / "busy" / "lora" / "train_1")
    folder.path.mkdir(parents=True)
    with folder.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seats = [seat_of(device) for device in devices()]
        update_state(folder, kind="train", status="running", started_at=time.time(), seats=seats)
        sit(folder, seats)
        before = set(SAVES.rglob("train_*"))
        try:
            yield folder
        finally:
            for each in waiting():
                cancel(each.folder)
            resume()
            keep_going(True)
            for path in {*set(SAVES.rglob("train_*")) - before, folder.path}:
                shutil.rmtree(path)


def _leaving(leave: Callable, faults: list[str]) -> Callable:
    """``leave``, after which what Gradio said about answers that were cut off by it is forgotten."""

    def left(*args, **options):
        before = len(faults)
        answer = leave(*args, **options)
        faults[before:] = [fault for fault in faults[before:] if not fault.startswith(CUT_OFF)]
        return answer

    return left


def _note_host(url: str, address: str, faults: list[str]) -> None:
    if not url.startswith((address, "data:", "blob:")):
        faults.append(f"asks another host: {url}")
