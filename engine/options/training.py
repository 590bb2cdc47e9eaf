"""How long, how fast and how often: the training loop. Names and meanings are transformers' own.

Every further field of ``transformers.TrainingArguments`` passes through under its own name; their names and types
stand in ``training_arguments.yaml``, which a test compares with the installed transformers.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, TypeAdapter, field_validator, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from engine.options.base import Names, Options
from engine.options.option import option
from engine.options.yaml_text import read_value

SCHEDULERS = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip


_TOKENS = {"stage": ("sft", "pt")}

TokensSeen = Annotated[
    Literal["non_padding", "all", "no"],
    BeforeValidator(lambda said: {"true": "non_padding", "false": "no"}.get(str(said).lower(), said)),
]
"""Which tokens are counted as seen; true and false are understood too, and true does not count padding."""


Lines = Annotated[str, BeforeValidator(lambda said: "\n".join(map(str, said)) if isinstance(said, list) else said)]
"""One text a line; in YAML also a list."""


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
    optim: str = option(
        "adamw_torch",
        level="advanced",
        suggestions=("adamw_torch", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion_8bit", "ademamix"),
    )
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
    ladder_prompts: Lines | None = option(
        None, level="advanced", control="lines", when={"stage": ("sft", "pt", "dpo", "kto", "grpo", "ppo")}
    )
    per_device_eval_batch_size: int = option(4, ge=1, le=1024, level="advanced")
    eval_strategy: Literal["no", "steps", "epoch"] = option("no", level="advanced")
    eval_steps: float | None = option(None, gt=0, level="advanced", when={"eval_strategy": ("steps",)})
    compute_accuracy: bool = option(False, when=_TOKENS, level="advanced")  # share of learned tokens that come first
    early_stopping_steps: int | None = option(None, ge=1, level="advanced")  # evaluations without a better one
    disable_shuffling: bool = option(False, level="advanced")  # rows in the order of their datasets
    resume_from_checkpoint: str | None = option(None, level="advanced", control="path")
    plot_loss: bool = option(True, level="command")
    report_to: Names = option(
        ("none",), level="advanced", suggestions=("none", "tensorboard", "wandb", "trackio", "mlflow", "swanlab")
    )
    include_num_input_tokens_seen: TokensSeen = option("non_padding", level="command")
    include_effective_tokens_per_second: bool = option(False, level="command")  # as a result of its own
    ddp_timeout: int = option(180000000, ge=1, level="command")  # seconds
    training_arguments: dict[str, Any] = option({}, level="command")  # further fields, by their own names

    @model_validator(mode="before")
    @classmethod
    def _gather_further_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Move the values of fields that are not declared here into ``training_arguments``."""
        known = further_training_arguments()
        further = {name: value for name, value in values.items() if name in known}
        rest = {name: value for name, value in values.items() if name not in known}
        return {**rest, "training_arguments": {**rest.get("training_arguments", {}), **further}}

    @field_validator("training_arguments", mode="before")
    @classmethod
    def _convert_further_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _further_types().validate_python(values)

    @property
    def ladder(self) -> tuple[str, ...]:
        """The prompts that are answered at every save; none, where the model that is trained writes no text."""
        lines = (self.ladder_prompts or "").splitlines() if self.has_effect("ladder_prompts") else []
        return tuple(line.strip() for line in lines if line.strip())

    def values(self) -> dict[str, Any]:
        plain = super().values()
        further = plain.pop("training_arguments")
        return {**plain, **further}


@lru_cache(maxsize=1)
def further_training_arguments() -> dict[str, str]:
    """Fields of ``transformers.TrainingArguments`` that pass through: name → "int", "float", "bool", "str" or "any"."""
    text = Path(__file__).with_name("training_arguments.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@lru_cache(maxsize=1)
def _further_types() -> TypeAdapter:
    """What converts the further fields, and reports each that is wrong under its own name."""
    plain = {"int": int, "float": float, "bool": bool, "str": str}
    types = {
        name: Annotated[plain[kind] | None, BeforeValidator(_none_if_said)] if kind in plain else _ANY
        for name, kind in further_training_arguments().items()
    }
    return TypeAdapter(TypedDict("FurtherTrainingArguments", types, total=False))


def _none_if_said(value: Any) -> Any:
    if value is False:
        return "no"  # PyYAML reads a bare no as false; a boolean takes "no" as well
    return None if isinstance(value, str) and value.strip().lower() in ("none", "null", "") else value


def _structure(value: Any) -> Any:
    """A mapping or list that was typed as text, as YAML; true, false and none as what they say; other text as it is."""
    if isinstance(value, str) and value.strip().lower() in ("none", "null", "", "true", "false"):
        return yaml.safe_load(value.lower().replace("none", "null"))
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return read_value(value)
        except yaml.YAMLError:
            return value
    return value


_ANY = Annotated[Any, BeforeValidator(_structure)]
