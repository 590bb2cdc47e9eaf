"""The answers of a run's checkpoints to the same few prompts, side by side: what ``engine.work.ladder`` has written."""

from __future__ import annotations

import json
from dataclasses import dataclass

from engine.runs.folder import Folder


@dataclass(frozen=True)
class Ladder:
    """Args: steps: in their order; answers: by prompt and step, a step that went wrong is missing."""

    prompts: tuple[str, ...]
    steps: tuple[int, ...]
    answers: dict[tuple[str, int], str]


def read_ladder(folder: Folder) -> Ladder | None:
    """All rungs so far; of a step that was done anew the later answers. None: the run has none."""
    try:
        lines = folder.ladder.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return None
    answers: dict[tuple[str, int], str] = {}
    for line in lines:
        try:
            rung = json.loads(line)
            answers[rung["prompt"], rung["step"]] = rung["answer"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn line of a writer that was killed
    if not answers:
        return None
    prompts = dict.fromkeys(prompt for prompt, _ in answers)
    return Ladder(tuple(prompts), tuple(sorted({step for _, step in answers})), answers)
