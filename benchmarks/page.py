"""What the page costs: its server's start and memory, its clicks in a real browser, and twenty watchers of one run.

    python benchmarks/page.py [--watchers 20] [--seconds 30]

Start: from the command until the page is answered, and what python with gradio alone takes. Clicks: Chromium without a
GPU, the quickest and the slowest of five, by the browser's own clock from the press of the button until what it leads
to is there, and until it has been painted. An open page: what it costs the browser while nothing happens. Watchers:
each asks what an open Train tab asks, at each tick and for its title, of a run that logs four lines a second; the share
of one core is the server's.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from engine.runs.folder import Folder  # noqa: E402
from engine.words import LANGUAGES, words  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROUNDS = 5
CLOCK = """([part, text]) => {
    const isThere = () => {
        const found = document.querySelector(part);
        return found !== null && found.checkVisibility() && (text === null || found.textContent.trim() === text);
    };
    window.took = new Promise((done) => {
        addEventListener("pointerdown", () => {
            const begin = performance.now();
            const passed = () => performance.now() - begin;
            const painted = (there) => requestAnimationFrame(() => setTimeout(() => done([there, passed()])));
            const look = () => isThere() ? painted(passed()) : setTimeout(look, 1);
            look();
        }, {once: true, capture: true});
    });
}"""
"""From the next press until a part of the page is there, and says a text; and until that is painted."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--watchers", type=int, default=20)
    arguments.add_argument("--seconds", type=int, default=30)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for name in ("data", "models"):
            (Path(place) / name).symlink_to(PROJECT / name)
        server, address = serve(place)
        try:
            clicks(address)
            watchers(address, server, Path(place), given.watchers, given.seconds)
        finally:
            server.terminate()
            server.wait()


def serve(place: str) -> tuple[psutil.Popen, str]:
    """Start the server in ``place``, the second time of two: the first compiles what is imported."""
    for attempt in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = f"http://127.0.0.1:{port}/"
        begin = time.perf_counter()
        server = psutil.Popen(
            [sys.executable, str(PROJECT / "app.py"), "webui", "--port", str(port)], cwd=place,
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not _answers(address):
            time.sleep(0.02)
        ready_s = time.perf_counter() - begin
        if attempt == 0:
            server.terminate()
            server.wait()
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    print(f"page answered after             {ready_s:8.2f} s, of which python with gradio alone {since(begin):.2f} s")
    print(f"memory of the server            {server.memory_info().rss / 1e6:8.0f} MB")
    return server, address


def clicks(address: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        begin = time.perf_counter()
        page = browser.new_page(viewport={"width": 1440, "height": 900}, locale="en-US")
        page.goto(address)
        page.locator("#start").wait_for()
        print(f"page drawn after                {since(begin):8.2f} s")
        time.sleep(5)
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable")
        busy = _task_s(metrics)
        time.sleep(15)
        print(f"an open page, of one core       {100 * (_task_s(metrics) - busy) / 15:8.1f} %")

        for tab in ("runs", "chat", "gguf"):
            page.locator(f"#tab-{tab}-button").click()
            time.sleep(2)  # drawn once
        runs, train = page.locator("#tab-runs-button"), page.locator("#tab-train-button")
        told("a tab", [_took(page, runs, "#runs-table", back=train) for _ in range(ROUNDS)])
        train.click()
        box = page.locator("#dataset input")
        box.fill("identity")
        box.press("Enter")
        train.focus()
        time.sleep(2)
        preview = page.locator("#preview-command")
        told("the preview", [_took(page, preview, "#train-command .cm-content", back=preview) for _ in range(ROUNDS)])
        times = []
        for code in ("ru", "ko", "zh", "ja", "en"):
            page.locator("#language input").click()
            choice = page.get_by_role("option", name=LANGUAGES[code])
            times.append(_took(page, choice, "#start", words("page.buttons.start", code)))
            time.sleep(3)
        told("the language", times)
        browser.close()


def _took(page: Any, pressed: Any, part: str, text: str | None = None, back: Any = None) -> list[float]:
    """Milliseconds until it is there, and until it is painted."""
    page.evaluate(CLOCK, [part, text])
    pressed.click()
    took = page.evaluate("window.took")
    if back is not None:
        time.sleep(1)
        back.click()
        time.sleep(1)
    return took


def told(name: str, times: list[list[float]]) -> None:
    there, painted = zip(*times, strict=True)
    print(f"{name:32}{min(there):8.0f} ms ({max(there):.0f} at most)", end="")
    print(f", painted {min(painted):.0f} ms ({max(painted):.0f} at most)", flush=True)


def watchers(address: str, server: psutil.Popen, place: Path, count: int, seconds: int) -> None:
    run = place / "saves" / "m" / "lora" / "train_watched"
    run.mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"kind": "train", "status": "running", "started_at": time.time()}))
    worker = Folder(run).lock.open("wb")
    fcntl.flock(worker, fcntl.LOCK_EX)  # as a worker does for as long as it lives
    asked = [(_event_for(address, "train-curve", "tick"), 1.5), (_event_for(address, "run-facts", "select"), 2.0)]
    over = threading.Event()
    threads = [
        threading.Thread(target=_watch, args=(address, *event, every_s, f"watcher{each}", over))
        for each in range(count)
        for event, every_s in asked
    ]
    threads.append(threading.Thread(target=_write, args=(run / "trainer_log.jsonl", over)))
    for thread in threads:
        thread.start()
    time.sleep(5)
    before = sum(server.cpu_times()[:2])
    time.sleep(seconds)
    spent = sum(server.cpu_times()[:2]) - before
    over.set()
    for thread in threads:
        thread.join()
    worker.close()
    print(f"{count} watchers, of one core        {100 * spent / seconds:8.1f} %")
    print(f"memory of the server then       {server.memory_info().rss / 1e6:8.0f} MB")


def _event_for(address: str, part: str, trigger: str) -> tuple[int, list[Any], bool]:
    """The event that brings news of a part of the page: its number, what a page just opened tells with it, and whether
    the browser gathers that into one text."""
    with urllib.request.urlopen(f"{address}config") as answer:
        config = json.load(answer)
    parts = {each["id"]: each["props"] for each in config["components"]}
    by_number = {event["id"]: event for event in config["dependencies"]}
    for event in by_number.values():
        first = by_number.get(event["trigger_after"], event)  # where the browser gathers what it tells
        if any(name == trigger for _, name in first["targets"]) and any(
            parts[each].get("elem_id") == part for each in event["outputs"]
        ):
            values = [parts[each].get("value") for each in first["inputs"]]
            return event["id"], values, first is not event
    raise SystemExit(f"no {trigger} asks for #{part}")


def _watch(
    address: str, number: int, values: list[Any], is_gathered: bool, every_s: float, session: str, over: threading.Event
) -> None:
    values = list(values)
    body = {"fn_index": number, "session_hash": session, "event_data": {"run": None}, "trigger_id": None}
    while not over.wait(every_s):
        body["data"] = [json.dumps(values)] if is_gathered else values
        request = urllib.request.Request(
            f"{address}gradio_api/run/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            received = json.load(answer)["data"][-1]
        if isinstance(received, int):  # the number of what has come; else nothing is new
            values[3] = received


def _write(path: Path, over: threading.Event) -> None:
    step = 0
    while not over.wait(0.25):
        step += 1
        line = {"current_steps": step, "total_steps": 100_000, "loss": 1 + 1 / step, "lr": 1e-4, "time": time.time()}
        with path.open("a") as log:
            log.write(json.dumps(line) + "\n")


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
        return True
    except OSError:
        return False


def _task_s(session: Any) -> float:
    values = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return values["TaskDuration"]


def since(begin: float) -> float:
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
