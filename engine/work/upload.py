"""A finished model folder → a hub, if that was asked for. It is proven by then, and stays whatever happens.

The hubs' libraries run in a process of their own (``hub_upload.py``), which can be ended at any moment; what a hub has
taken by then it need not be sent again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.record import Recorder
from engine.runs.start import PROJECT
from engine.work.hubs import HUBS, TOKENS

BY_HAND = {
    "huggingface": "hf upload {name} {folder}",
    "modelscope": "modelscope upload {name} {folder}",
}


def need_token(hub: str) -> None:
    """Raises: UserError, if the hub's token is not in the environment: said before the work, not after it."""
    if not os.environ.get(TOKENS[hub]):
        raise UserError("upload.no_token", hub=HUBS[hub], variable=TOKENS[hub])


def upload(folder: Path, job: ExportJob, recorder: Recorder) -> dict[str, str]:
    """Upload a folder as one repository; progress as events, in bytes.

    Returns:
        ``uploaded``: its address.

    Raises:
        UserError: it could not be uploaded; says that the folder is there, and the command for doing it by hand.
        StopRequested: somebody asked the run to stop.
    """
    name = str(job.export_hub_model_id)
    order = {"name": name, "hub": job.hub, "folder": str(folder), "is_private": job.export_private_repo}
    command = [sys.executable, "-m", "engine.work.hub_upload", json.dumps(order)]
    paths = [str(PROJECT), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    recorder.phase("uploading")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment)
    try:
        for line in process.stdout:
            message = json.loads(line)
            if "address" in message:
                return {"uploaded": message["address"]}
            if "error" in message:
                detail = message["error"]
                break
            recorder.phase("uploading", message["done"], message["total"], "bytes")
            recorder.check_stop()
        else:
            detail = f"exit code {process.wait()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    by_hand = BY_HAND[job.hub].format(name=name, folder=shlex.quote(str(folder)))
    by_hand += " --private" if job.hub == "huggingface" and job.export_private_repo else ""
    raise UserError("upload.failed", hub=HUBS[job.hub], name=name, folder=folder, detail=detail, command=by_hand)
