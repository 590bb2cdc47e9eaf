"""One served page with a door, an owner and a viewer, in a workplace of its own, with secrets in its environment."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.catalog.accounts import Account, hashed
from tests.conftest import PROJECT
from tests.security.attack import ACCOUNTS, SECRETS, Target, numbers_of
from tests.served import free_port, wait_for
from webui.access.sessions import Sessions
from webui.access.sharing import Sharing
from webui.page import build_page


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Two gigabytes more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def page():
    """The same page as the served one, to be asked for its events and routes."""
    return build_page(sharing=Sharing({}, Sessions(Path("nowhere"), {}), "en"))


@pytest.fixture(scope="session")
def fort(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served page's working directory."""
    folder = tmp_path_factory.mktemp("fort")
    (folder / "models").symlink_to(PROJECT / "models", target_is_directory=True)
    shutil.copytree(PROJECT / "data", folder / "data")
    lines = [f"{each.name}:{each.role}:{each.hash}" for each in ACCOUNTS.values()]
    (folder / "accounts").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def expired(fort: Path) -> dict[str, str]:
    """Tokens that lie in the served page's file of sessions since before its start, none of which may open it."""
    ada, soon = ACCOUNTS["ada"], time.time() + 3600
    kept = {
        "over": {"name": "ada", "seal": ada.seal, "until": time.time() - 1},
        "password changed": {"name": "ada", "seal": Account("ada", "owner", hashed("before")).seal, "until": soon},
        "role changed": {"name": "bob", "seal": Account("bob", "owner", ACCOUNTS["bob"].hash).seal, "until": soon},
        "somebody gone": {"name": "eve", "seal": ada.seal, "until": soon},
        "not a number": {"name": "ada", "seal": ada.seal, "until": float("nan")},
    }
    file = fort / "saves" / ".access" / "sessions.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({hashlib.sha256(why.encode()).hexdigest(): each for why, each in kept.items()}))
    return {why: why for why in kept}


UNHURRIED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from webui.access import limits
limits.RATE = limits.BURST = 1e9
import app
sys.exit(app.main(sys.argv[1:]))
"""
"""The program, but for how much a visitor may ask for at once: `test_limits` is about that."""


@pytest.fixture(scope="session")
def serving(page) -> Iterator[Callable[..., Target]]:
    """Serves further pages: ``serving(workplace)``."""
    targets: list[Target] = []

    def start(workplace: Path, **environment: str) -> Target:
        port = free_port()
        log = (workplace / f"server-{port}.log").open("wb")
        command = [
            sys.executable,
            "-c",
            UNHURRIED,
            str(PROJECT),
            "webui",
            "--port",
            str(port),
            "--auth-file",
            "accounts",
        ]
        around = {**os.environ, "HF_HUB_OFFLINE": "1", **SECRETS, **environment,
                  "GRADIO_TEMP_DIR": str(workplace / "cache")}  # fmt: skip
        process = subprocess.Popen(command, cwd=workplace, env=around, stdout=log, stderr=subprocess.STDOUT)
        log.close()
        events, inputs = numbers_of(page)
        targets.append(Target(f"http://127.0.0.1:{port}", workplace, events, inputs, process))
        wait_for(f"http://127.0.0.1:{port}/gradio_api/startup-events", process, workplace / f"server-{port}.log")
        return targets[-1]

    yield start
    for target in targets:
        for client in target.clients:
            client.close()
        target.process.terminate()
        target.process.wait(20)


@pytest.fixture(scope="session")
def target(serving, fort: Path, expired) -> Target:
    return serving(fort)
