"""``--preset NAME`` beside a training's options: replaced by the options that it stands for, which are printed."""

from __future__ import annotations

import sys
from typing import Any

from engine.catalog.devices import devices
from engine.options.base import Options
from engine.options.command import as_text
from engine.options.jobs import TrainJob
from engine.runs.presets import expanded
from engine.words import words


def without_preset(values: dict[str, Any], job_type: type[Options], language: str) -> dict[str, Any]:
    """The values with a preset's in its place; as they are, where none is asked for.

    Raises:
        UserError: there is no preset of that name.
    """
    if "preset" not in values or not issubclass(job_type, TrainJob):
        return values
    full, chosen = expanded(values, devices())
    options = " ".join(f"--{name} {_typed(value)}" for name, value in chosen.values.items())
    print(words("presets.command.sets", language, name=values["preset"], options=options), file=sys.stderr)
    if chosen.fits is False:
        print(words("presets.command.too_big", language, name=values["preset"]), file=sys.stderr)
    return full


def _typed(value: Any) -> str:
    return as_text(",".join(value) if isinstance(value, tuple) else value)
