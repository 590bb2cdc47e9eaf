"""Tokens in the environment are found nowhere afterwards: in no run's folder, page, event, preview, export or error.

A library is made to put the token into the text of its error: the model's folder names it as the kind of the model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.runs.folder import Folder
from engine.runs.read import is_alive
from engine.runs.stop import end_now
from tests.browser.steps import open_tab
from tests.conftest import PROJECT
from tests.security.attack import PASSWORDS, RUN, SECRETS, leaks, told

TOKENS = ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "API_KEY", "SLACK_WEBHOOK")


def program(fort: Path, *arguments: str) -> subprocess.CompletedProcess:
    around = {**os.environ, "HF_HUB_OFFLINE": "1", **SECRETS}
    command = [sys.executable, str(PROJECT / "app.py"), *arguments]
    return subprocess.run(command, cwd=fort, env=around, capture_output=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def quoted(target, fort, bundled_model) -> Iterator[dict[str, subprocess.CompletedProcess]]:
    """Runs that fail with a token in a library's own words, and what the terminal said."""
    folder = fort / "quoting"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (bundled_model / name).is_file():
            shutil.copy(bundled_model / name, folder / name)
    (folder / "config.json").write_text(json.dumps({"model_type": " and ".join(SECRETS[name] for name in TOKENS)}))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    said = {"train": program(fort, "train", "--model_name_or_path", "quoting", "--dataset", "identity", "--template",
                             "chatml", "--max_steps", "1", "--output_dir", "saves/quoting/lora/train_1")}  # fmt: skip
    for command in (("runs",), ("env",), ("runs", "log", "quoting/lora/train_1"),
                    ("runs", "show", "quoting/lora/train_1"),
                    ("runs", "watch", "quoting/lora/train_1"), ("webui", "--help"), ("train", "--help")):  # fmt: skip
        said[" ".join(command)] = program(fort, *command)
    assert said["train"].returncode == 1, said["train"].stderr.decode()[-2000:]
    yield said
    for run in map(Folder, (fort / "saves").rglob("train_2*")):  # what the tests' own events have started
        while run.queued.is_file() or is_alive(run):
            end_now(run, grace_s=1)
            time.sleep(0.1)


def test_the_terminal_says_none(quoted):
    assert {name: found for name, each in quoted.items() if (found := leaks(each.stdout + each.stderr))} == {}
    assert b"*****" in quoted["train"].stdout + quoted["train"].stderr, "the error was not about what was planted"


def test_no_file_holds_one(quoted, fort):
    """Folders of runs, the card, events, state and the log that its worker wrote; and what the server said."""
    read = 0
    for path in [*fort.glob("saves/**/*"), *fort.glob("*.log"), *fort.glob("cache/**/*")]:
        if path.is_file():
            read += 1
            assert leaks(path.read_bytes()) == [], path
    log = fort / "saves" / "quoting" / "lora" / "train_1"
    assert read > 5 and any(b"*****" in path.read_bytes() for path in log.iterdir() if path.is_file())


def test_no_zip_for_others_holds_one(quoted, fort):
    program(fort, "runs", "diagnose", "quoting/lora/train_1")
    zips = list(fort.rglob("diagnostics-*.zip"))
    assert zips
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                assert leaks(archive.read(name)) == [], name


@pytest.mark.parametrize("who", ["ada", "bob", None])
def test_the_page_says_none(quoted, target, who):
    """Every page, file of settings and event that answers without having been given anything."""
    client = target.client(who)
    for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/manifest.json", "/?run=quoting/lora/train_1",
                 "/gradio_api/info?all_endpoints=true", "/gradio_api/queue/status", "/monitoring/summary"):  # fmt: skip
        assert leaks(client.get(path, headers={"accept": "text/html"}).content) == [], path
    if who is None:
        return
    for name, number in target.events.items():
        if target.inputs[number] == 0 and who == "ada":
            assert leaks(json.dumps(told(client, number, [], f"none{number}"))) == [], name
        for data in ([], ["en"], ["en", "quoting/lora/train_1"], [json.dumps(["en"] * 20)]):
            if len(data) == target.inputs[number]:
                body = {"fn_index": number, "data": data, "session_hash": f"secrets{who}"}
                assert leaks(client.post(RUN, json=body).content) == [], name


def test_a_run_is_shown_without_one(quoted, target, chromium):
    """The failed run, its error, log and card as a viewer sees them."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(target.address + "/?run=quoting/lora/train_1")
    page.locator("[name=name]").fill("bob")
    page.locator("[name=password]").fill(PASSWORDS["bob"])
    page.locator("button").click()
    page.locator("#start").wait_for(timeout=60_000)
    open_tab(page, "runs")
    page.locator('[data-run="quoting/lora/train_1"]').click()
    expect(page.locator("#run-status")).to_contain_text("*****")
    page.evaluate("document.querySelectorAll('button.label-wrap:not(.open)').forEach((each) => each.click())")
    page.wait_for_timeout(2000)
    text = page.content()
    context.close()
    assert leaks(text) == [] and "*****" in text
