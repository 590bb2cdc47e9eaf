"""Positions beyond those a model was made for: how its rotary embedding is stretched (``rope_scaling``)."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.options.command import read_options_file
from engine.options.model import Model

WITHOUT_LENGTH = 2.0
"""How far a model is stretched that is not trained now and whose adapters do not say, as in LLaMA-Factory."""


def stretch(config: Any, job: Model) -> bool:
    """Stretch the rotary embedding in a model's configuration as a job or its last adapter asks; whether it does.

    A training stretches to the next whole multiple that holds ``cutoff_len``, and not at all where that fits already.
    A chat or a merge does what its adapters were trained with, else ``WITHOUT_LENGTH``.

    Args:
        config: of transformers; changed in place.

    Raises:
        UserError: the model has no rotary embedding, or several of them.
    """
    trained_kind, trained_length = _trained_with(job)
    kind = job.rope_scaling or trained_kind
    if kind is None:
        return False
    length = max((each for each in (trained_length, getattr(job, "cutoff_len", None)) if each), default=None)
    text = config.get_text_config()
    before = dict(getattr(text, "rope_parameters", None) or {})
    if "rope_theta" not in before or not getattr(text, "max_position_embeddings", None):
        raise UserError("rope_unknown", kind=kind, model=text.model_type)
    original = before.get("original_max_position_embeddings") or text.max_position_embeddings
    factor = WITHOUT_LENGTH if length is None else float(math.ceil(length / original))
    if factor <= 1:
        logging.getLogger(__name__).warning("rope_scaling does nothing: %d tokens fit as it is", original)
        return False
    kept = {name: before[name] for name in ("rope_theta", "partial_rotary_factor") if name in before}
    text.rope_parameters = {**kept, "rope_type": kind, "factor": factor}
    if kind != "linear":
        text.rope_parameters["original_max_position_embeddings"] = original
    if kind == "llama3":
        text.rope_parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind != "dynamic":  # which begins beyond the length that the model was made for
        text.max_position_embeddings = int(original * factor)
    return True


def longest(config: Any) -> int | None:
    """How many tokens a model can hold, as its configuration says; None: it does not say."""
    length, rope = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None) or {}
    return int(length * rope["factor"]) if length and rope.get("rope_type") == "dynamic" else length


def has_same_positions(one: Model, other: Model) -> bool:
    """Whether two jobs, which name the same base model, stretch its positions alike."""
    asked, others = _trained_with(one), _trained_with(other)
    return asked == others or (asked[0] is None and others[0] is None)


def _trained_with(job: Model) -> tuple[str | None, int | None]:
    """The scaling with which the job's last adapter was trained, and for how many tokens."""
    for folder in map(Path, reversed(job.adapters)):
        for place in (folder, folder.parent) if folder.name.startswith("checkpoint-") else (folder,):
            if (place / "training_args.yaml").is_file():
                said = read_options_file(place / "training_args.yaml")
                return said.get("rope_scaling"), said.get("cutoff_len")
    return None, None
