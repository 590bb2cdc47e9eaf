"""Which kinds of datasets each stage of training learns from."""

from __future__ import annotations

from engine.catalog.entry import Entry
from engine.errors import Problem

KINDS = {
    "sft": ("sft", "text"),
    "pt": ("text",),
    "dpo": ("preference",),
    "rm": ("preference",),
    "kto": ("kto",),
    "grpo": ("sft",),
    "ppo": ("sft",),
}
"""Stage → kinds of datasets (``Entry.kind``)."""

UNFIT = {
    "sft": "dataset_stage.sft", "text": "dataset_stage.text", "preference": "dataset_stage.preference",
    "kto": "dataset_stage.kto",
}  # fmt: skip
"""Kind of dataset → the error where a stage does not learn from it."""


def stage_problem(entry: Entry, stage: str, option: str = "dataset") -> Problem | None:
    """What is wrong with learning from this dataset in this stage; it names the stages that fit."""
    if entry.kind in KINDS[stage]:
        return None
    fitting = ", ".join(each for each, kinds in KINDS.items() if entry.kind in kinds and each != "ppo")
    return Problem(UNFIT[entry.kind], option, {"dataset": entry.name, "stage": stage, "fitting": fitting})
