"""The tunnel of a share link: opened with gradio's own means, so that it can be said why it was not; and closed."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlparse, urlunparse

from gradio import networking, tunneling
from gradio.exceptions import ChecksumMismatchError, ShareCertificateWriteError

from engine.errors import UserError

FAULTS = (
    ShareCertificateWriteError, ChecksumMismatchError, OSError, networking.httpx.HTTPError, RuntimeError, ValueError,
)  # fmt: skip


def open_tunnel(host: str, port: int) -> str:
    """The address under which all the world reaches the page.

    Raises:
        UserError: why there is no tunnel, and what else works.
    """
    here = "127.0.0.1" if host == "0.0.0.0" else host
    try:
        url = networking.setup_tunnel(here, port, secrets.token_urlsafe(32), None, None)
    except FAULTS as error:
        close_tunnels()  # its program may be running all the same
        key, facts = _reason(error)
        raise UserError(key, **facts, port=port) from error
    is_own = networking.GRADIO_SHARE_SERVER_ADDRESS is not None  # a server of one's own speaks http
    return urlunparse(("http" if is_own else "https", *urlparse(url)[1:]))


def _reason(error: Exception) -> tuple[str, dict[str, Any]]:
    if isinstance(error, ShareCertificateWriteError):
        return "access.tunnel_read_only", {"detail": error}
    if isinstance(error, ChecksumMismatchError):
        return "access.tunnel_program_differs", {"path": tunneling.BINARY_PATH}
    if isinstance(error, OSError | networking.httpx.HTTPError):
        facts = {"path": tunneling.BINARY_PATH, "address": tunneling.BINARY_URL, "detail": error}
        return "access.tunnel_program", facts
    if isinstance(error, ValueError):
        return "access.tunnel_refused", {"detail": str(error).splitlines()[-1]}
    return "access.tunnel_no_server", {"detail": error.__cause__ or error}  # which is asked first


def close_tunnels() -> None:
    while tunneling.CURRENT_TUNNELS:
        tunneling.CURRENT_TUNNELS.pop().kill()
