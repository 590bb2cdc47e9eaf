"""A page that asks who one is, in a real browser: an owner and a viewer, in two languages, and over a restart."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect

from engine.catalog.accounts import hashed
from engine.runs.folder import Folder
from engine.runs.record import update_state
from engine.words import words
from tests.browser.steps import add_name, open_tab
from tests.conftest import PROJECT
from tests.served import free_port, wait_for

PASSWORDS = {"ada": "right and long", "bob": "only looking"}


@pytest.fixture
def shop(tmp_path, bundled_model):
    """A working directory with accounts and a finished run."""
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(PROJECT / name, target_is_directory=True)
    roles = {"ada": "owner", "bob": "viewer"}
    lines = [f"{name}:{role}:{hashed(PASSWORDS[name])}" for name, role in roles.items()]
    (tmp_path / "accounts").write_text("\n".join(lines))
    run = Folder(tmp_path / "saves" / "m" / "lora" / "seen")
    run.path.mkdir(parents=True)
    update_state(run, kind="train", status="done", started_at=1e9, finished_at=1e9 + 60)
    return tmp_path


@pytest.fixture
def served(shop):
    """Starts and stops the server: ``served()`` gives the address, which stays the same."""
    port, servers = free_port(), []

    def start():
        while servers:
            servers[-1].terminate()
            servers.pop().wait(20)
        log = (shop / "server.log").open("ab")
        command = [sys.executable, str(PROJECT / "app.py"), "webui", "--port", str(port), "--auth-file", "accounts"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        servers.append(subprocess.Popen(command, cwd=shop, env=environment, stdout=log, stderr=log))
        try:
            wait_for(f"http://127.0.0.1:{port}/gradio_api/startup-events", servers[0], shop / "server.log")
        finally:
            log.close()
        return f"http://127.0.0.1:{port}/"

    yield start
    for server in servers:
        server.terminate()
        server.wait(20)


def sign_in(page, name, password=None):
    page.locator("[name=name]").fill(name)
    page.locator("[name=password]").fill(password or PASSWORDS[name])
    page.locator("button").click()


def test_an_owner_and_a_viewer(chromium, served, shop):
    address = served()
    visitors = {name: chromium.new_context(locale=locale) for name, locale in (("ada", "en-US"), ("bob", "ko-KR"))}
    pages = {name: context.new_page() for name, context in visitors.items()}
    for name, page in pages.items():
        page.set_default_timeout(30_000)
        page.goto(address)
        language = "ko" if name == "bob" else "en"
        expect(page.locator("form")).to_contain_text(words("access.title", language))
        sign_in(page, name, "wrong")
        expect(page.locator("[role=alert]")).to_have_text(words("access.wrong", language))
        sign_in(page, name)
        page.locator("#start").wait_for()
        expect(page.locator("#who")).to_contain_text(name)
    bob, ada = pages["bob"], pages["ada"]
    expect(bob.locator("#who")).to_contain_text(words("access.viewer", "ko"))
    for width in (390, 1440):
        bob.set_viewport_size({"width": width, "height": 900})
        box = bob.locator("#who button").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, "the way out is cut off"
        assert bob.evaluate("document.documentElement.scrollWidth") <= width
        assert (bob.locator("#language").bounding_box()["width"] < 200) or width == 390

    open_tab(bob, "runs")
    bob.locator('[data-run="m/lora/seen"]').click()
    expect(bob.locator("#run-status")).to_contain_text("m/lora/seen")
    open_tab(bob, "train")
    for page in (bob, ada):
        add_name(page, "dataset", "nowhere")
        page.locator("#start").click()
    expect(bob.get_by_text(words("access.owners_only", "ko"))).to_be_visible()
    expect(ada.locator("#train-notice")).to_contain_text("nowhere")
    assert len(list((shop / "saves").rglob("state.json"))) == 1

    served()  # a restart: both are still in
    for page in (bob, ada):
        page.reload()
        page.locator("#start").wait_for()
    here = words("access.here", names="ada (owner), bob (viewer)")
    expect(ada.locator("#sharing")).to_contain_text(here, timeout=60_000)
    expect(bob.locator("#sharing")).to_contain_text(words("access.shared", "ko"))
    assert "ada" not in bob.locator("#sharing").inner_text()
    for width in (390, 1440):
        ada.set_viewport_size({"width": width, "height": 900})
        assert ada.evaluate("document.documentElement.scrollWidth") <= width
    ada.locator("#sharing [data-act=ask]").click()
    expect(ada.locator("#sharing [role=alert]")).to_have_text(words("access.stop_question"))
    ada.locator("#sharing [data-act=keep]").click()
    expect(ada.locator("#sharing")).to_contain_text("ada (owner)")
    ada.locator("#sharing [data-act=ask]").click()
    ada.locator("#sharing [data-act=stop]").click()
    expect(ada.locator("#sharing")).to_contain_text(words("access.stopped"))
    assert bob.request.get(f"{address}config").status == 401, "everybody else is out"
    assert ada.request.get(f"{address}config").status == 200
    ada.locator("#who button").click()
    expect(ada.locator("form")).to_contain_text(words("access.title"))
    assert ada.request.get(f"{address}config").status == 401
    for context in visitors.values():
        context.close()


def test_without_a_door_the_page_answers_under_this_machines_names_alone(address):
    with urllib.request.urlopen(address) as answer:
        assert answer.status == 200
    for path in ("", "config", "gradio_api/run/predict"):
        asked = urllib.request.Request(address + path, headers={"host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(asked)
        assert told.value.code == 403
