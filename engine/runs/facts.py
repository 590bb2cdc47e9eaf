"""What a run's events say about what it was made with: programs, machine, models, data. Knows nothing of its steps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from engine.runs.folder import Folder

TOLD = ("attempt", "model", "dataset_files", "dataset_rows", "dataset", "parameters", "precision", "device")
"""Names of events that say with what a run was made."""


@dataclass
class Facts:
    """What a run's events say about what it was made with.

    Args:
        attempts: one for each process that worked on it, the latest last: ``versions``, ``machine``, ``git``,
            ``options``, ``threads``, and ``from_step`` of one that went on from a checkpoint.
        models: by the option that names them: ``name``, ``path``, ``revision``, ``bytes``, ``sha256``.
        datasets: by name: ``files``, ``bytes``, ``sha256``, ``rows`` and the other counts of its rows.
        others: ``dataset`` (all counts), ``parameters``, ``precision``, ``device``.
    """

    attempts: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Add what an event says; one that says nothing of this kind changes nothing."""
        name = next((each for each in (*TOLD, "resumed_at") if each in event), None)
        value = event.get(name) if name else None
        if name == "resumed_at" and self.attempts:
            self.attempts[-1]["from_step"] = value
        elif name == "device":
            self.others[name] = value
        elif not isinstance(value, dict):
            return  # of another version, or written by hand
        elif name == "attempt":
            self.attempts.append({**value, "time": event.get("time")})
        elif name == "model":
            self.models[value["role"]] = value
        elif name in ("dataset_files", "dataset_rows"):
            self.datasets.setdefault(value["dataset"], {}).update(value)
        else:
            self.others[name] = value


def read_facts(folder: Folder) -> Facts:
    """Look through a run's events; lines of steps are passed over unread."""
    facts = Facts()
    try:
        with folder.events.open("rb") as file:
            for line in file:
                if b'"current_steps"' not in line and line.endswith(b"\n"):
                    _take_line(facts, line)
    except FileNotFoundError:
        pass  # it has not come that far
    return facts


def _take_line(facts: Facts, line: bytes) -> None:
    try:
        event = json.loads(line)
    except ValueError:
        return  # the torn line of a writer that was killed
    if isinstance(event, dict):
        facts.take(event)
