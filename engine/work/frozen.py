"""Weights that were not trained are saved as the base model has them, whatever format they were computed with in."""

from __future__ import annotations

import json
import os
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from engine.work.shards import GB, INDEX, SINGLE, Stored, load, model_tensors, write_model

FILE_BYTES = 5 * GB


def keep_frozen(folder: Path, base: Path, model: Any) -> None:
    """Put the base model's own numbers in place of those frozen ones that were rounded when they were loaded.

    A device computes with frozen weights in the format in which it is fastest. What was rounded for that must not be
    what the result says of weights that nobody has trained.

    Args:
        folder: a saved model, not yet under its final name; is changed.
        base: what it was trained from. Weights in formats other than safetensors are left as they were saved.
        model: says which weights were trained.
    """
    saved = model_tensors(folder)
    if any((base / name).is_file() for name in (SINGLE, INDEX)):
        saved = _with_exact(folder, saved, model_tensors(base), model)
    _say_widest(folder, {tensor.dtype for tensor in saved.values()})


def _with_exact(folder: Path, saved: dict[str, Stored], original: dict[str, Stored], model: Any) -> dict[str, Stored]:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    rounded = {
        name
        for name, tensor in saved.items()
        if name in original
        and name not in trained
        and tensor.shape == original[name].shape
        and torch.promote_types(tensor.dtype, original[name].dtype) != tensor.dtype
    }
    if not rounded:
        return saved
    chosen = {name: original[name] if name in rounded else tensor for name, tensor in saved.items()}
    beside = folder / "exact"
    beside.mkdir()
    contents = {name: (tensor.shape, tensor.dtype) for name, tensor in chosen.items()}
    for _ in write_model(beside, contents, FILE_BYTES, lambda name: load(chosen[name])):
        pass
    for path in {tensor.file for tensor in saved.values()} | {folder / INDEX}:
        path.unlink(missing_ok=True)
    for path in beside.iterdir():
        os.replace(path, folder / path.name)
    beside.rmdir()
    return chosen


def _say_widest(folder: Path, dtypes: set[torch.dtype]) -> None:
    """Name the format in the configuration that holds all of them, so that who loads the model in it loses nothing."""
    widest = reduce(torch.promote_types, dtypes)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(widest).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
