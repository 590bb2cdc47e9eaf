"""What a schedule of the learning rate is told when its user leaves it open."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments


def schedule_settings(arguments: TrainingArguments, steps: int) -> dict[str, Any] | None:
    """``lr_scheduler_kwargs``, with the parts of warmup_stable_decay that are not said.

    Of the steps after the warm-up, a third is stable and the rate falls in the others, as in LLaMA-Factory;
    transformers (5.23) has no default for them.

    Args:
        steps: of the whole training.
    """
    given = arguments.lr_scheduler_kwargs
    if arguments.lr_scheduler_type != "warmup_stable_decay":
        return given
    rest = steps - arguments.get_warmup_steps(steps)
    return {"num_decay_steps": rest - rest // 3, **(given or {})}
