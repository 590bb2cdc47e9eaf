"""Pages that tests serve in a process of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import PROJECT

START_S = 120


def new_workshop(places: pytest.TempPathFactory) -> Path:
    """A working directory for a page: the project's data and models, and nothing that was done before."""
    folder = places.mktemp("workshop")
    for name in ("data", "models"):
        (folder / name).symlink_to(PROJECT / name, target_is_directory=True)
    return folder


@contextmanager
def served(workshop: Path, ollama_port: int, root: Path) -> Iterator[str]:
    """Where ``python app.py webui`` serves a page of that working directory, which may also use what is below root."""
    port = free_port()
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1",
                   "OLLAMA_HOST": f"127.0.0.1:{ollama_port}"}  # fmt: skip
    log = (workshop / "server.log").open("wb")
    command = [sys.executable, str(PROJECT / "app.py"), "webui", "--port", str(port), "--roots", str(root)]
    server = subprocess.Popen(command, cwd=workshop, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/", server, workshop / "server.log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Until something answers there.

    Raises:
        RuntimeError: with the log, where the server ended or said nothing.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the page was not served:\n{log.read_text(errors='replace')}")
