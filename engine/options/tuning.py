"""Which weights are trained: all, some layers, or adapters beside them."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option

_LORA = {"finetuning_type": ("lora",)}
_OFT = {"finetuning_type": ("oft",)}
_ADAPTERS = {"finetuning_type": ("lora", "oft")}
_FREEZE = {"finetuning_type": ("freeze",)}


class Tuning(Options):
    """The fine-tuning method."""

    stage: Literal["sft", "pt", "dpo", "kto", "rm", "grpo", "ppo"] = option("sft")  # ppo is done by grpo
    finetuning_type: Literal["lora", "oft", "full", "freeze"] = option("lora")
    train_from_scratch: bool = option(False, level="command", when={"finetuning_type": ("full",)})  # random weights
    upcast_layernorm: bool = option(False, level="command")  # norms in float32, whatever the other weights are in


class Lora(Options):
    """Train two thin matrices beside each chosen weight (Hu et al. 2021, arXiv 2106.09685)."""

    lora_rank: int = option(8, ge=1, le=1024, when=_LORA)  # columns of B, rows of A
    lora_alpha: float | None = option(None, gt=0, when=_LORA)  # update is scaled by alpha / rank; None: 2 × rank
    lora_dropout: float = option(0.0, ge=0, lt=1, when=_LORA, level="advanced")  # probability
    lora_target: Names = option(("all",), when=_LORA)  # leaf names of linear layers; "all": every one but the head
    additional_target: Names = option((), when=_ADAPTERS, level="advanced")  # modules trained whole and saved with it
    use_rslora: bool = option(False, when=_LORA, level="advanced")  # scale by alpha / sqrt(rank)
    use_dora: bool = option(False, when=_LORA, level="advanced")
    pissa_init: bool = option(False, when=_LORA, level="advanced")  # begin with the largest singular values of W
    pissa_iter: int = option(16, ge=-1, when={**_LORA, "pissa_init": (True,)}, level="advanced")  # -1: exact
    loraplus_lr_ratio: float | None = option(None, gt=0, when=_LORA, level="advanced")  # learning rate of B / that of A
    loraplus_lr_embedding: float = option(1e-6, ge=0, when=_LORA, level="command")  # of LoRA beside embeddings
    create_new_adapter: bool = option(False, when=_ADAPTERS, level="advanced")


class Oft(Options):
    """Turn the inputs of each chosen weight by small orthogonal blocks (Qiu et al. 2023, arXiv 2306.07280)."""

    oft_block_size: int = option(32, ge=0, when=_OFT)  # sides of a block; 0: as oft_rank says
    oft_rank: int = option(0, ge=0, when=_OFT, level="advanced")  # blocks of a weight; 0: as oft_block_size says
    oft_target: Names = option(("all",), when=_OFT)  # as lora_target


class Freeze(Options):
    """Train some whole layers and leave the others as they are."""

    freeze_trainable_layers: int = option(2, when=_FREEZE)  # > 0: the last n; < 0: the first n
    freeze_trainable_modules: Names = option(("all",), when=_FREEZE, level="advanced")
    freeze_extra_modules: Names = option((), when=_FREEZE, level="advanced")
    use_llama_pro: bool = option(False, when=_FREEZE, level="advanced")  # n layers at equal distances, the last one too
