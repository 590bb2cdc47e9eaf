"""A path or hub id → a local folder that holds the model, whole and ready to be loaded.

The hubs' libraries run in a process of their own (``hubs.py``), which can be ended at any moment; what has arrived is
kept by them and not fetched twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.catalog.models import BUNDLED, is_bundled, model_problem
from engine.errors import UserError
from engine.runs.record import Recorder
from engine.runs.start import PROJECT
from engine.work.bundled import PACKAGE, bundled_gguf, make_bundled
from engine.work.hubs import HUBS


def local_model(
    name_or_path: str,
    hub: str = "huggingface",
    revision: str = "main",
    recorder: Recorder | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a model, made or downloaded if need be.

    Args:
        name_or_path: a folder, the bundled model's path, or a hub id.
        revision: branch, tag or commit on the hub; "main" means ModelScope's "master" there.
        recorder: is told of the progress, in bytes, and asked whether to stop.
        cache_dir: where the hub keeps downloads; None: its usual place.

    Raises:
        UserError: there is no such model, it is incomplete, or it could not be fetched (``download.…``).
    """
    problem = model_problem(name_or_path)
    if problem:
        raise UserError(problem.key, **problem.facts)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if is_bundled(name_or_path):
        return _bundled(recorder, cache_dir)
    try:
        return fetch(name_or_path, hub, revision, recorder, cache_dir)
    except UserError as error:
        if error.key != "download.no_network" or name_or_path != BUNDLED.huggingface or bundled_gguf() is None:
            raise
    if recorder is not None:
        recorder.warn("download.bundled_instead", name=name_or_path)
    return make_bundled(recorder=recorder)


def _bundled(recorder: Recorder | None, cache_dir: str | Path | None) -> Path:
    """The bundled model from its package, or from the hub it came from where the package is not installed."""
    if bundled_gguf() is not None:
        return make_bundled(recorder=recorder)
    if recorder is not None:
        recorder.warn("download.bundled_from_hub", package=PACKAGE, name=BUNDLED.huggingface)
    try:
        return fetch(BUNDLED.huggingface, "huggingface", "main", recorder, cache_dir)
    except UserError as error:
        raise UserError("download.package_missing", package=PACKAGE) from error


def fetch(
    name: str,
    hub: str,
    revision: str = "main",
    recorder: Recorder | None = None,
    cache_dir: str | Path | None = None,
    **part: str | None,
) -> Path:
    """Download what a model on a hub needs, or find it where it was downloaded before.

    Args:
        part: of a dataset, ``kind="dataset"``, ``folder`` and ``subset``.

    Raises:
        UserError: ``download.…``.
        StopRequested: somebody asked the run to stop; what has arrived is kept.
    """
    order = {"name": name, "hub": hub, "revision": revision, "cache_dir": cache_dir and str(cache_dir), **part}
    command = [sys.executable, "-m", "engine.work.hubs", json.dumps(order)]
    paths = [str(PROJECT), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    phase = "downloading_dataset" if part.get("kind") == "dataset" else "downloading"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment)
    try:
        return _outcome(process, recorder, name, hub, phase)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _outcome(process: subprocess.Popen, recorder: Recorder | None, name: str, hub: str, phase: str) -> Path:
    """Pass on what the downloading process says until it says how it ended."""
    for line in process.stdout:
        message = json.loads(line)
        if "path" in message:
            return Path(message["path"])
        if "error" in message:
            raise UserError(message["error"], **message["facts"])
        if recorder is not None:
            recorder.phase(phase, message["done"], message["total"], "bytes")
            recorder.check_stop()
    raise UserError("download.failed", name=name, hub=HUBS[hub], detail=f"exit code {process.wait()}")
