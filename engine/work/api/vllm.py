"""The worker of ``api`` where vLLM does the work: starts its server, says when it can answer, and ends it."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from engine.catalog.rendering import adapter_template, named_template, renderer_for
from engine.errors import UserError
from engine.options.jobs import ApiJob
from engine.runs import vllm
from engine.runs.api import served_name
from engine.runs.record import Recorder, write_text
from engine.work.api.calls import written_format
from engine.work.download import local_model

INTERVAL_S = 0.5
GRACE_S = 10.0


def run(job: ApiJob, recorder: Recorder, port: int, url: str) -> None:
    """Serve until the worker is ended. Never returns of itself.

    Args:
        port: that is free.
        url: where this machine's programs find it.
    """
    vllm.check(job)
    model = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    job = job.model_copy(update={"model_name_or_path": str(model), "api_port": port})
    words = vllm.command(job, Path(model), _chat_template(job, recorder), _tool_format(job))
    recorder.phase("loading_model")
    server = subprocess.Popen(words, env=vllm.environment(os.environ), stdin=subprocess.DEVNULL)
    try:
        is_ready = False
        while server.poll() is None:
            recorder.check_stop()
            if not is_ready and _answers(url):
                is_ready = True
                facts: dict[str, Any] = {"model": job.model_name_or_path, "adapters": list(job.adapters)}
                recorder.state(result={"ready": True, "url": url, "name": served_name(job), "backend": "vllm", **facts})
                recorder.phase("ready")
            time.sleep(INTERVAL_S)
        raise UserError("api.vllm_ended", code=server.returncode)
    finally:
        _end(server)


def _chat_template(job: ApiJob, recorder: Recorder) -> Path | None:
    """The template that the job names or its adapter was trained with, in a file; None: the model's own."""
    template = named_template(job)
    text = template.chat_template if template else adapter_template(job)
    if text is None:
        return None
    write_text(recorder.folder.chat_template, text)
    return recorder.folder.chat_template.absolute()


def _tool_format(job: ApiJob) -> str | None:
    template = named_template(job)
    if template:
        return template.tool_format
    renderer = renderer_for(job)
    found = written_format(lambda messages, tools, opens: renderer.render(messages, opens, tools=tools))
    return found.name if found else None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=INTERVAL_S) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _end(server: subprocess.Popen) -> None:
    server.terminate()
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
