"""How long, how fast and how often: the training loop. Names and meanings are transformers' own.

Every further field of ``transformers.TrainingArguments`` passes through under its own name; their names and types
stand in ``training_arguments.yaml``, which a test compares with the installed transformers.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import model_validator

from engine.options.base import Names, Options
from engine.options.option import option

SCHEDULERS = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip


class Training(Options):
    """The training loop."""

    do_train: bool = option(True, level="command")
    output_dir: str | None = option(None, control="path")  # None: saves/<model>/<method>/train_<time>
    overwrite_output_dir: bool = option(False, level="advanced")
    learning_rate: float = option(1e-4, ge=0)
    num_train_epochs: float = option(3.0, gt=0)
    max_steps: int = option(-1, ge=-1, level="advanced")  # optimizer steps; -1: as many as the epochs need
    per_device_train_batch_size: int = option(4, ge=1, le=1024)
    gradient_accumulation_steps: int = option(2, ge=1, le=1024)
    lr_scheduler_type: SCHEDULERS = option("cosine")
    warmup_steps: float = option(0, ge=0)  # from 1 on: steps; below 1: share of all steps
    max_grad_norm: float = option(1.0, ge=0, level="advanced")
    weight_decay: float = option(0.0, ge=0, level="advanced")
    optim: str = option("adamw_torch", level="advanced", suggestions=("adamw_torch", "adafactor", "sgd", "adamw_8bit"))
    neftune_noise_alpha: float | None = option(None, ge=0, level="advanced")
    seed: int = option(42, ge=0)
    bf16: bool = option(False, level="advanced")
    fp16: bool = option(False, level="advanced")
    pure_bf16: bool = option(False, level="advanced")
    disable_gradient_checkpointing: bool | None = option(None, level="advanced")  # None: the engine decides
    logging_steps: float = option(5, gt=0)
    save_strategy: Literal["steps", "epoch", "no"] = option("steps", level="advanced")
    save_steps: float = option(100, gt=0)
    save_total_limit: int | None = option(None, ge=1, level="advanced")
    per_device_eval_batch_size: int = option(4, ge=1, le=1024, level="advanced")
    eval_strategy: Literal["no", "steps", "epoch"] = option("no", level="advanced")
    eval_steps: float | None = option(None, gt=0, level="advanced", when={"eval_strategy": ("steps",)})
    resume_from_checkpoint: str | None = option(None, level="advanced", control="path")
    plot_loss: bool = option(True, level="command")
    report_to: Names = option(("none",), level="advanced", suggestions=("none", "tensorboard", "wandb", "mlflow"))
    include_num_input_tokens_seen: bool = option(True, level="command")
    ddp_timeout: int = option(180000000, ge=1, level="command")  # seconds
    training_arguments: dict[str, Any] = option({}, level="command")  # further fields, by their own names

    @model_validator(mode="before")
    @classmethod
    def _gather_further_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Move ``weight_name: value`` of fields that are not declared here into ``training_arguments``."""
        known = further_training_arguments()
        further = {name: _typed(name, known[name], values[name]) for name in values if name in known}
        if not further:
            return values
        rest = {name: value for name, value in values.items() if name not in known}
        return {**rest, "training_arguments": {**rest.get("training_arguments", {}), **further}}

    def values(self) -> dict[str, Any]:
        plain = super().values()
        return {**plain, **plain.pop("training_arguments")}


@lru_cache(maxsize=1)
def further_training_arguments() -> dict[str, str]:
    """Fields of ``transformers.TrainingArguments`` that pass through: name → "int", "float", "bool", "str" or "any"."""
    text = Path(__file__).with_name("training_arguments.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _typed(name: str, kind: str, value: Any) -> Any:
    """Convert what was typed to the kind that transformers expects; "any" is taken as YAML gives it."""
    if isinstance(value, str) and (kind != "str" or value.lower() in ("none", "null")):
        value = yaml.safe_load(value) if value.lower() != "none" else None
    if value is None or kind in ("any", "str"):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "float") and not isinstance(value, bool):
        return {"int": int, "float": float}[kind](value)
    raise ValueError(f"{name}: {value!r} is not of type {kind}")
