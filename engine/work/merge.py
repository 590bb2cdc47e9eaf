"""A base model and its LoRA adapters → the tensors of one merged model, each by itself; files are written elsewhere."""

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
from engine.work.shards import Stored, load, some, stored_tensors

SUPPORTED_TYPES = ("LORA",)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

NOT_MERGED = (
    "alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "use_bdlora", "use_qalora",
)  # fmt: skip
"""Options of peft's LoraConfig under which W + scaling * B @ A is not what the adapter computes."""

CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Ways to initialise LoRA that subtract from the base weights, so that the adapter does not fit the base as stored."""

_KINDS = (
    ("lora_a", r"\.lora_(?:A\.weight|embedding_B)$"),
    ("lora_b", r"\.lora_(?:B\.weight|embedding_A)$"),
    ("bias", r"\.lora_B\.bias$"),
    ("magnitude", r"\.lora_magnitude_vector(?:\.weight)?$"),
    ("rows", r"\.token_adapter\.trainable_tokens_delta$"),
)


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    """Fold a LoRA update into the weight it was trained beside.

    Returns ``W + scaling * B @ A``, computed in float32: in bfloat16 (8 significant bits) a small update would be
    rounded away. The inputs are not changed.

    Args:
        weight: frozen base weight W, shape (out, in), any floating dtype.
        lora_a: down-projection A, shape (r, in).
        lora_b: up-projection B, shape (out, r).
        scaling: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; no unit.

    Returns:
        Merged weight, shape (out, in), dtype and device of ``weight``.

    Raises:
        ValueError: the three shapes do not chain; the message shows all three.

    Source: Hu et al. 2021, arXiv 2106.09685, section 4.1. Checked against peft in tests/conformance/test_merge.py.
    """
    if not _chain(weight.shape, lora_a.shape, lora_b.shape):
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in (("W", weight), ("A", lora_a), ("B", lora_b)))
        raise ValueError(f"W (out, in), A (r, in) and B (out, r) do not fit together: {shapes}")
    lora_a, lora_b = (x.to(weight.device, torch.float32) for x in (lora_a, lora_b))
    return torch.addmm(weight.float(), lora_b, lora_a, alpha=scaling).to(weight.dtype)


def merged_weight_dora(
    weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, magnitude: Tensor, dim: int
) -> Tensor:
    """Fold a DoRA update: the direction of ``W + scaling * B @ A`` with a trained length.

    Args:
        weight, lora_a, lora_b, scaling: as for :func:`merged_weight`.
        magnitude: trained length of each row (``dim`` 1, a linear layer) or column (``dim`` 0, an embedding).
        dim: along which the length is measured.

    Source: Liu et al. 2024, arXiv 2402.09353, equation 5. Checked against peft in tests/conformance/test_merge.py.
    """
    direction = merged_weight(weight.float(), lora_a, lora_b, scaling)
    length = torch.linalg.norm(direction, dim=dim, keepdim=True)
    return (direction * (magnitude.float().reshape(length.shape) / length)).to(weight.dtype)


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
    scaling: float = 1.0
    is_embedding: bool = False  # lora_a and lora_b are then stored transposed, and called B and A

    def names(self) -> list[str]:
        parts = (self.whole, self.rows, self.lora_a, self.lora_b, self.magnitude, self.bias)
        return [name for name in parts if name]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk: its configuration, its tensors, and what each is for."""

    folder: Path
    config: dict[str, Any]
    stored: dict[str, Stored]
    updates: dict[str, Update] = field(default_factory=dict)  # by name of the base's tensor

    def load(self, name: str) -> Tensor:
        return load(self.stored[name])

    def parts(self, update: Update) -> dict[str, Tensor]:
        """The tensors of an update by role, A and B in the layout of a linear layer: (r, in) and (out, r)."""
        roles = ("whole", "rows", "lora_a", "lora_b", "magnitude", "bias")
        parts = {role: self.load(name) for role in roles if (name := getattr(update, role))}
        if update.is_embedding:
            parts |= {role: parts[role].T for role in ("lora_a", "lora_b") if role in parts}
        return parts

    def applied(self, weight: Tensor, update: Update) -> Tensor:
        """The float32 tensor that ``update`` makes of ``weight`` (float32, not changed)."""
        parts = self.parts(update)
        weight = parts.get("whole", weight).float()
        if "rows" in parts:
            weight = weight.index_copy(0, torch.tensor(update.indices), parts["rows"].float())
        if "bias" in parts:
            weight = weight + update.scaling * parts["bias"].float()
        if "magnitude" in parts:
            dim = 0 if update.is_embedding else 1
            return merged_weight_dora(weight, parts["lora_a"], parts["lora_b"], update.scaling, parts["magnitude"], dim)
        if "lora_a" in parts:
            return merged_weight(weight, parts["lora_a"], parts["lora_b"], update.scaling)
        return weight

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
        UserError: it cannot be read, is of another kind than LoRA, or uses what merging does not know.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError("merge.file_broken", path=folder / ADAPTER_CONFIG, detail=error) from error
    if config.get("peft_type") not in SUPPORTED_TYPES:
        supported = ", ".join(SUPPORTED_TYPES)
        raise UserError("merge.adapter_type", adapter=folder, type=config.get("peft_type"), supported=supported)
    start = config.get("init_lora_weights")
    refused = [name for name in NOT_MERGED if config.get(name)]
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        refused.append("init_lora_weights")
    for name in refused:
        raise UserError("merge.adapter_option", adapter=folder, option=name, value=config[name])
    adapter = Adapter(folder, config, stored_tensors(folder / ADAPTER_WEIGHTS))
    for name in adapter.stored:
        _assign(adapter, name)
    return adapter


@dataclass(frozen=True)
class Merge:
    """A base model with adapters applied in their order: which tensors it has, and each of them.

    Args:
        base: the base model's tensors.
        adapters: applied one after the other, each to what the one before left.
        sources: name of each tensor of the merged model → name of the base tensor it is made from.
        is_tied: input and output embeddings are one tensor, which is stored once.
    """

    base: dict[str, Stored]
    adapters: tuple[Adapter, ...]
    sources: dict[str, str]
    is_tied: bool

    def is_touched(self, name: str) -> bool:
        return any(name in adapter.updates for adapter in self.adapters)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.base[self.sources[name]].shape
        for adapter in self.adapters:
            whole = adapter.updates.get(name, Update()).whole
            shape = adapter.stored[whole].shape if whole else shape
        return shape

    def float32_bytes(self) -> int:
        """Size of the merged model's weights in float32."""
        return 4 * sum(math.prod(self.shape(name)) for name in self.sources)

    def stored_dtype(self, name: str) -> torch.dtype:
        return self.base[self.sources[name]].dtype

    def base_tensor(self, name: str) -> Tensor:
        source = self.sources[name]
        return load(self.base[source])

    def tensor(self, name: str) -> Tensor:
        """As in the base where no adapter touches it, else merged, in float32."""
        weight = self.base_tensor(name)
        if not self.is_touched(name):
            return weight
        weight = weight.float()
        for adapter in self.adapters:
            if name in adapter.updates:
                weight = adapter.applied(weight, adapter.updates[name])
        return weight


def plan_merge(base: dict[str, Stored], adapters: list[Adapter], tied: tuple[str, str] | None) -> Merge:
    """Fit adapters to a base model, and see whether tied embeddings stay tied.

    Args:
        base: the base model's tensors.
        adapters: in the order in which they are applied.
        tied: names of the output and the input embedding where the configuration ties them, else None.

    Raises:
        UserError: a tensor of an adapter fits nothing, has the wrong shape, or is not finite.
    """
    sources = {name: name for name in base}
    is_tied = False
    if tied and tied[1] in base:
        head, embedding = tied
        is_tied = head not in base or torch.equal(load(base[head]), load(base[embedding]))
        if is_tied:
            sources[head] = embedding
            adapters = [_sharing(adapter, head, embedding) for adapter in adapters]
    for adapter in adapters:
        _check(adapter, base, sources)
    if is_tied:
        is_tied = all(
            adapter.is_same(adapter.updates.get(head), adapter.updates.get(embedding)) for adapter in adapters
        )
        if is_tied:
            del sources[head]
    return Merge(base, tuple(adapters), sources, is_tied)


def _chain(weight: tuple[int, ...], lora_a: tuple[int, ...], lora_b: tuple[int, ...]) -> bool:
    return (
        len(weight) == len(lora_a) == len(lora_b) == 2
        and tuple(weight) == (lora_b[0], lora_a[1])
        and lora_a[0] == lora_b[1]
    )


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


def _sharing(adapter: Adapter, head: str, embedding: str) -> Adapter:
    """The same adapter, where a plain copy of one of two tied tensors is meant for both.

    peft gives a module in ``modules_to_save`` a weight of its own; any other whole tensor, and single rows, go into
    the one that both use.
    """
    own = adapter.config.get("modules_to_save") or []
    updates = dict(adapter.updates)
    for here, there in ((head, embedding), (embedding, head)):
        update, other = adapter.updates.get(here, Update()), adapter.updates.get(there, Update())
        has_own = any(here.removesuffix(".weight").endswith(name) for name in own)
        if update.whole and not has_own and not other.whole:
            updates[there] = replace(updates.get(there, Update()), whole=update.whole)
        if update.rows and not other.rows:
            updates[there] = replace(updates.get(there, Update()), rows=update.rows, indices=update.indices)
    return replace(adapter, updates=updates)


def _check(adapter: Adapter, base: dict[str, Stored], sources: dict[str, str]) -> None:
    unused = [name for target, update in adapter.updates.items() if target not in sources for name in update.names()]
    if unused:
        raise UserError("merge.adapter_unused", adapter=adapter.folder, count=len(unused), names=some(unused))
    unfit = []
    for target, update in adapter.updates.items():
        shape = base[sources[target]].shape
        if update.whole:
            is_embedding = len(shape) == 2 and adapter.stored[update.whole].shape[1:] == shape[1:]
            if not is_embedding and adapter.stored[update.whole].shape != shape:
                unfit.append(f"{target} {shape} ← {adapter.stored[update.whole].shape}")
            shape = adapter.stored[update.whole].shape
        unfit += _misfits(adapter, target, update, shape)
    if unfit:
        raise UserError("merge.adapter_unfit", adapter=adapter.folder, detail=some(unfit, 3))
    broken = [name for name in adapter.stored if not torch.isfinite(adapter.load(name)).all()]
    if broken:
        raise UserError("merge.adapter_not_finite", adapter=adapter.folder, count=len(broken), names=some(broken))


def _misfits(adapter: Adapter, target: str, update: Update, shape: tuple[int, ...]) -> list[str]:
    found = []
    if update.lora_a or update.lora_b:
        if not (update.lora_a and update.lora_b):
            return [f"{target}: {update.lora_a or update.lora_b} has no partner"]
        a, b = adapter.stored[update.lora_a].shape, adapter.stored[update.lora_b].shape
        a, b = (a[::-1], b[::-1]) if update.is_embedding else (a, b)
        if not _chain(shape, a, b):
            found.append(f"{target} {shape} ← A {a}, B {b}")
    if update.magnitude:
        length = math.prod(adapter.stored[update.magnitude].shape)
        if not update.lora_a or length != shape[1 if update.is_embedding else 0]:
            found.append(f"{target} {shape} ← magnitude ({length},)")
    if update.bias and adapter.stored[update.bias].shape != shape:
        found.append(f"{target} {shape} ← {adapter.stored[update.bias].shape}")
    if update.rows and (adapter.stored[update.rows].shape[0] != len(update.indices)):
        found.append(f"{target}: {len(update.indices)} rows ← {adapter.stored[update.rows].shape}")
    return found
