"""The worker of ``api``: holds a model and serves it. The model is used by the main thread, the web by another."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import uvicorn

from engine.errors import UserError
from engine.options.jobs import ApiJob
from engine.runs.api import key_in, refuse_open_door, served_name
from engine.runs.read import read_language
from engine.runs.record import Recorder
from engine.work.api import vllm
from engine.work.api.line import Line, serve
from engine.work.api.server import application
from engine.work.chat import for_chat, load, warm_up

BACKLOG = 128
CUT_OFF_S = 1
"""How long who is being answered when the server ends may keep the connection."""
LEAVING_S = 3.0


def run(job: ApiJob, recorder: Recorder) -> dict[str, Any]:
    """Load a model and serve it until the worker is ended. Never returns of itself."""
    refuse_open_door(job, os.environ)
    if job.api_engine == "vllm":
        with bound(job) as listening:  # to see that it is free, and which one 0 means
            port, url = listening.getsockname()[1], url_of(job, listening)
        vllm.run(job, recorder, port, url)
    with bound(job) as listening:
        try:
            model, facts = load(job, recorder)
            warm_up(model, job)
        except Exception as error:
            raise for_chat(error) from error
        recorder.check_stop()
        name, line = served_name(job), Line(job.api_max_waiting + job.api_at_once)
        app = application(line, name, key_in(os.environ), read_language(recorder.folder))
        settings = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=CUT_OFF_S,
        )  # fmt: skip
        server = uvicorn.Server(settings)
        open_door(job, listening)
        web = threading.Thread(target=server.run, args=([listening],), daemon=True)
        web.start()
        recorder.state(result={"ready": True, "url": url_of(job, listening), "name": name, **facts})
        recorder.phase("ready")
        try:
            serve(model, line, job, recorder)
        finally:
            server.should_exit = True
            web.join(LEAVING_S)


def bound(job: ApiJob) -> socket.socket:
    """The door, before the model is loaded, so that a port in use is told at once.

    Raises:
        UserError: it is in use, or no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(job.api_host, job.api_port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise _no_door(job, error) from error
    return listening


def open_door(job: ApiJob, listening: socket.socket) -> None:
    """From here on nobody who asks is turned away. Raises: UserError, if another server was faster at this port."""
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        raise _no_door(job, error) from error


def _no_door(job: ApiJob, error: OSError) -> UserError:
    return UserError("api.no_door", host=job.api_host, port=job.api_port, detail=error.strerror or error)


def url_of(job: ApiJob, listening: socket.socket) -> str:
    """Where this machine's programs find it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(job.api_host, job.api_host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{listening.getsockname()[1]}/v1"
