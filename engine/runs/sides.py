"""Who can answer: the base model alone, or with the adapter of a run or of one of its checkpoints; and their names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.runs.folder import Folder, find_folder
from engine.runs.read import read_job

BASE = "base"


@dataclass(frozen=True)
class Side:
    """Args: name: for people; model: the model that is loaded; adapter: beside it; None: it stands alone."""

    name: str
    model: str
    adapter: str | None


def find_side(name: str, model: str | None) -> Side:
    """What a person means by ``base``, a run's name, ``RUN/checkpoint-N``, a folder, or a hub id.

    Args:
        model: whose ``base`` it is, and what an adapter is put on; None: the one it was trained beside.

    Raises:
        UserError: there is no such thing.
    """
    if name == BASE:
        if model is None:
            raise UserError("chat.base_of_what")
        return Side(BASE, model, None)
    path = _folder_of(name)
    if path is None:
        raise UserError("chat.no_such_side", name=name)
    if (path / "adapter_config.json").is_file():
        base = model or base_of(path)
        if base is None:
            raise UserError("chat.base_of_what")
        return Side(side_name(str(path)), base, str(path))
    if (path / "config.json").is_file():
        return Side(side_name(str(path)), str(path), None)
    raise UserError("chat.no_such_side", name=name)


def base_of(adapter: str | Path) -> str | None:
    """The model that an adapter was trained beside, as its own file says."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("base_model_name_or_path") or None


def trained_from(side: Side) -> str | None:
    """The model that a side was made of: its adapter's, or that of the run whose weights it is; None: nobody says."""
    if side.adapter:
        return base_of(side.adapter)
    run = run_of(side.model)
    try:
        return getattr(read_job(run), "model_name_or_path", None) if run else None
    except (OSError, UserError):
        return None  # of a run that cannot be read any more


def run_of(adapter: str | Path) -> Folder | None:
    """The run that an adapter or a checkpoint is of; None: it is of none that lies here."""
    path = Path(adapter).absolute()
    for place in (path, path.parent):
        if Folder(place).state.is_file():
            return Folder(place)
    return None


def side_name(side: str) -> str:
    """How a person refers to it: a run's name, with that of the checkpoint behind it; else the path."""
    run = None if side == BASE else run_of(side)
    if run is None:
        return side
    path = Path(side)
    return run.name if path.name == run.path.name else f"{run.name}/{path.name}"


def _folder_of(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    run, slash, checkpoint = name.rpartition("/")
    for whose, inside in ((name, ""), (run, checkpoint) if slash else (name, "")):
        try:
            found = find_folder(whose).path / inside
        except LookupError:
            continue
        if found.is_dir():
            return found
    return None
