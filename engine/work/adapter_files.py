"""An adapter's files → which tensor of the base model each of its tensors changes, and what comes of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.work.folding import merged_weight, merged_weight_dora, merged_weight_oft
from engine.work.shards import Stored, load, stored_tensors

SUPPORTED_TYPES = ("LORA", "OFT")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Ways to initialise LoRA that subtract from the base weights, so that the adapter does not fit the base as stored."""

NOT_MERGED = (
    "alora_invocation_tokens", "arrow_config", "block_share", "coft", "kasa_config",
    "layer_replication", "monteclora_config", "target_parameters", "use_bdlora", "use_qalora",
)  # fmt: skip
"""Options of peft's configurations under which ``folding.py`` is not what the adapter computes."""

_KINDS = (
    ("lora_a", r"\.lora_(?:A\.weight|embedding_B)$"),
    ("lora_b", r"\.lora_(?:B\.weight|embedding_A)$"),
    ("bias", r"\.lora_B\.bias$"),
    ("magnitude", r"\.lora_magnitude_vector(?:\.weight)?$"),
    ("angles", r"\.oft_R\.weight$"),
    ("rows", r"\.token_adapter\.trainable_tokens_delta$"),
)


@dataclass(frozen=True)
class Update:
    """What one adapter does to one tensor of the base; its parts are named as in the adapter's file."""

    whole: str | None = None  # takes the tensor's place, before all else
    rows: str | None = None  # takes the place of the rows in ``indices``
    indices: tuple[int, ...] = ()
    lora_a: str | None = None
    lora_b: str | None = None
    magnitude: str | None = None
    bias: str | None = None  # added, times ``scaling``
    angles: str | None = None  # of OFT's blocks
    scaling: float = 1.0
    is_embedding: bool = False  # lora_a and lora_b are then stored transposed, and called B and A
    is_turned: bool = False  # the base has the weight as (in, out), as Conv1D of GPT-2; ``merge.py`` sees that

    def names(self) -> list[str]:
        parts = (self.whole, self.rows, self.lora_a, self.lora_b, self.magnitude, self.bias,
                 self.angles)  # fmt: skip
        return [name for name in parts if name]


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk: its configuration, its tensors, and what each is for."""

    folder: Path
    config: dict[str, Any]
    stored: dict[str, Stored]
    updates: dict[str, Update] = field(default_factory=dict)  # by name of the base's tensor

    def load(self, name: str) -> Tensor:
        return load(self.stored[name])

    def parts(self, update: Update) -> dict[str, Tensor]:
        """The tensors of an update by role, A and B so that their product B @ A has the weight's layout."""
        roles = ("whole", "rows", "lora_a", "lora_b", "magnitude", "bias", "angles")
        parts = {role: self.load(name) for role in roles if (name := getattr(update, role))}
        if update.is_embedding:
            parts |= {role: parts[role].T for role in ("lora_a", "lora_b") if role in parts}
        if update.is_turned:  # (B @ A)ᵀ = Aᵀ @ Bᵀ
            parts |= {"lora_a": parts["lora_b"].T, "lora_b": parts["lora_a"].T}
        return parts

    def applied(self, weight: Tensor, update: Update) -> Tensor:
        """The float32 tensor that ``update`` makes of ``weight`` (float32, not changed)."""
        parts = self.parts(update)
        weight = parts.get("whole", weight).float()
        if "rows" in parts:
            weight = weight.index_copy(0, torch.tensor(update.indices), parts["rows"].float())
        if "bias" in parts:
            weight = weight + update.scaling * parts["bias"].float()
        if "angles" in parts:
            return merged_weight_oft(weight, parts["angles"], self._series_terms())
        if "magnitude" in parts:
            dim = 0 if update.is_embedding or update.is_turned else 1
            return merged_weight_dora(weight, parts["lora_a"], parts["lora_b"], update.scaling, parts["magnitude"], dim)
        if "lora_a" in parts:
            return merged_weight(weight, parts["lora_a"], parts["lora_b"], update.scaling)
        return weight

    def _series_terms(self) -> int | None:
        """How OFT's blocks are computed; a configuration that does not say was written before there was a choice."""
        return self.config.get("num_cayley_neumann_terms", 5) if self.config.get("use_cayley_neumann") else None

    def is_same(self, one: Update | None, other: Update | None) -> bool:
        """Whether two updates make the same of the same tensor."""
        if one is None or other is None:
            return one is other
        first, second = self.parts(one), self.parts(other)
        settings_agree = (one.scaling, one.indices) == (other.scaling, other.indices)
        is_dora = bool(one.magnitude or other.magnitude)  # of an embedding it is measured along the other side
        return (
            settings_agree
            and first.keys() == second.keys()
            and not (is_dora and one.is_embedding != other.is_embedding)
            and all(torch.equal(first[role], second[role]) for role in first)
        )


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and sort its tensors by the base tensor they change; no number is read yet.

    Raises:
        UserError: it cannot be read, is of a kind, or uses what merging does not know.
    """
    config = _read_config(folder)
    if config.get("peft_type") not in SUPPORTED_TYPES:
        supported = ", ".join(SUPPORTED_TYPES)
        raise UserError("merge.adapter_type", adapter=folder, type=config.get("peft_type"), supported=supported)
    start = config.get("init_lora_weights")
    refused = [name for name in NOT_MERGED if config.get(name)]
    if config["peft_type"] == "OFT" and config.get("fan_in_fan_out"):
        refused.append("fan_in_fan_out")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        refused.append("init_lora_weights")
    for name in refused:
        raise UserError("merge.adapter_option", adapter=folder, option=name, value=config[name])
    adapter = Adapter(folder, config, stored_tensors(folder / ADAPTER_WEIGHTS))
    for name in adapter.stored:
        if ".original_module." not in name:  # peft may save what it keeps beside a module that is trained whole
            _assign(adapter, name)
    return adapter


def is_reward_adapter(folder: Path) -> bool:
    """Whether an adapter is one that stage rm has left. Raises: UserError, if its configuration cannot be read."""
    return _read_config(folder).get("task_type") == "SEQ_CLS"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError("merge.file_broken", path=path, detail=error) from error
    needed = ("r", "lora_alpha") if isinstance(config, dict) and config.get("peft_type") == "LORA" else ()
    missing = ["{ }"] if not isinstance(config, dict) else [name for name in needed if name not in config]
    if missing:
        raise UserError("merge.file_broken", path=path, detail=f"without {', '.join(missing)}")
    return config


def _assign(adapter: Adapter, name: str) -> None:
    """Note in ``adapter.updates`` which tensor of the base ``name`` is for."""
    path = name.removeprefix("base_model.model.")
    for role, pattern in _KINDS:
        if not re.search(pattern, path):
            continue
        module = re.sub(pattern, "", path)
        target = f"{module}.bias" if role == "bias" else f"{module}.weight"
        facts: dict[str, Any] = {role: name}
        if role in ("lora_a", "lora_b", "bias"):
            facts["scaling"] = _scaling(adapter.config, module)
        if ".lora_embedding_" in path:
            facts["is_embedding"] = True
        if role == "rows":
            facts["indices"] = _row_indices(adapter.config, module)
        break
    else:
        target = re.sub(r"\.(?:base_layer|modules_to_save)\.(?=\w+$)", ".", path)
        facts = {"whole": name}
    adapter.updates[target] = replace(adapter.updates.get(target, Update()), **facts)


def _scaling(config: dict[str, Any], module: str) -> float:
    """alpha / r, or alpha / sqrt(r); a pattern that matches the end of the module's path overrides either."""

    def value(patterns: str, default: str) -> float:
        for pattern, special in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return special
        return config[default]

    rank = value("rank_pattern", "r")
    return value("alpha_pattern", "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _row_indices(config: dict[str, Any], module: str) -> tuple[int, ...]:
    indices = config.get("trainable_token_indices") or ()
    if isinstance(indices, dict):
        indices = next((rows for name, rows in indices.items() if module.endswith(name)), ())
    return tuple(indices)
