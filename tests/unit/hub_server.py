"""A server on this machine that the libraries of both hubs take for theirs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def served_as_hubs(
    handler: type[http.server.BaseHTTPRequestHandler], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Answer with ``handler`` whatever is asked of Hugging Face or ModelScope; their caches lie below ``home``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, folder = f"http://127.0.0.1:{server.server_port}", str(home / "home")
    for name, value in {
        "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": folder,
        "MODELSCOPE_ENDPOINT": address, "MODELSCOPE_CACHE": folder, "HOME": folder,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    server.shutdown()
    server.server_close()
