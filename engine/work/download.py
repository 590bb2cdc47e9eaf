"""A path or hub id → a local folder that holds the model."""

from __future__ import annotations

from pathlib import Path

from engine.catalog.models import is_bundled, model_problem
from engine.errors import UserError
from engine.work.bundled import make_bundled


def local_model(
    name_or_path: str, hub: str = "huggingface", revision: str = "main", recorder=None, cache_dir: str | None = None
) -> Path:
    """The folder of a model, made or downloaded if need be."""
    problem = model_problem(name_or_path)
    if problem:
        raise UserError(problem.key, **problem.facts)
    if is_bundled(name_or_path):
        return make_bundled(recorder=recorder)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name_or_path, revision=revision, cache_dir=cache_dir))
