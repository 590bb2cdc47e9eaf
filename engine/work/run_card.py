"""What a run card tells, gathered where it is known and put into the run's events; and the card itself, at the end."""

from __future__ import annotations

import dataclasses
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from engine.catalog.digests import data_facts, model_facts
from engine.catalog.entry import Entry
from engine.catalog.rows import files_of
from engine.catalog.versions import git_state, machine, versions
from engine.options.jobs import TrainJob
from engine.runs.card import card
from engine.runs.read import read_language, read_state
from engine.runs.record import Recorder, write_text


def tell_attempt(job: TrainJob, recorder: Recorder) -> None:
    """Say with what this process works: versions, machine, the program's own code, and every option as it stands."""
    made_with: dict[str, Any] = {
        "versions": versions(), "machine": machine(), "git": git_state(), "options": job.values(),
    }  # fmt: skip
    if torch := sys.modules.get("torch"):
        made_with["threads"] = torch.get_num_threads()
        if torch.version.cuda:
            made_with["versions"]["cuda"] = torch.version.cuda
    recorder.event(attempt=made_with)


def tell_models(job: TrainJob, path: str | Path, recorder: Recorder) -> None:
    """Say what the base model is that lies in ``path``, and the adapters and other models beside it that lie here."""
    others = {
        **{f"adapter_name_or_path {number}": name for number, name in enumerate(job.adapter_name_or_path, start=1)},
        "ref_model": job.ref_model,
        "reward_model": job.reward_model,
    }
    found = {"model_name_or_path": (job.model_name_or_path, Path(path))}
    found |= {role: (name, Path(name).expanduser()) for role, name in others.items() if name}
    for role, (name, folder) in found.items():
        if folder.is_dir():
            facts = {"name": name, "path": str(folder), "revision": _commit(folder), **model_facts(folder)}
            recorder.event(model={"role": role, **facts})


def tell_files(entry: Entry, job: TrainJob, recorder: Recorder) -> None:
    """Say which files a dataset was read from."""
    if entry.path is not None:
        facts = data_facts(files_of(entry.path), is_read=not job.streaming)
        recorder.event(dataset_files={"dataset": entry.name, **facts})


def write_card(recorder: Recorder, **ending: Any) -> None:
    """Write RUN.md for a training that is about to end so.

    A card that cannot be written costs the run nothing but the card.

    Args:
        ending: what the state will say: ``status``, ``finished_at``, and ``error`` or ``result``.
    """
    folder = recorder.folder
    try:
        state = dataclasses.replace(read_state(folder), **ending)
        if state.kind == "train":
            write_text(folder.card, card(folder, read_language(folder), state))
    except Exception:
        traceback.print_exc()


def _commit(folder: Path) -> str | None:
    """The commit that Hugging Face's cache names a model's folder after."""
    found = re.search(r"/snapshots/([0-9a-f]{40})$", str(folder))
    return found[1] if found else None
