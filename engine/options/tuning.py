"""Which weights are trained: all, some layers, or adapters beside them."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option

_LORA = {"finetuning_type": ("lora",)}
_FREEZE = {"finetuning_type": ("freeze",)}


class Tuning(Options):
    """The fine-tuning method."""

    stage: Literal["sft"] = option("sft")
    finetuning_type: Literal["lora", "full", "freeze"] = option("lora")


class Lora(Options):
    """Train two thin matrices beside each chosen weight (Hu et al. 2021, arXiv 2106.09685)."""

    lora_rank: int = option(8, ge=1, le=1024, when=_LORA)  # columns of B, rows of A
    lora_alpha: float | None = option(None, gt=0, when=_LORA)  # update is scaled by alpha / rank; None: 2 × rank
    lora_dropout: float = option(0.0, ge=0, lt=1, when=_LORA, level="advanced")  # probability
    lora_target: Names = option(("all",), when=_LORA)  # leaf names of linear layers; "all": every one but the head
    additional_target: Names = option((), when=_LORA, level="advanced")  # modules trained whole and saved with it
    use_rslora: bool = option(False, when=_LORA, level="advanced")  # scale by alpha / sqrt(rank)
    use_dora: bool = option(False, when=_LORA, level="advanced")
    create_new_adapter: bool = option(False, when=_LORA, level="advanced")


class Freeze(Options):
    """Train some whole layers and leave the others as they are."""

    freeze_trainable_layers: int = option(2, when=_FREEZE)  # > 0: the last n; < 0: the first n
    freeze_trainable_modules: Names = option(("all",), when=_FREEZE, level="advanced")
    freeze_extra_modules: Names = option((), when=_FREEZE, level="advanced")
