"""A base model and its adapters → the tensors of one merged model, each by itself; files are written elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import UserError
from engine.work.adapter_files import Adapter, Update
from engine.work.folding import block_side, chain
from engine.work.shards import Stored, blocks, load, some


@dataclass(frozen=True)
class Merge:
    """A base model with adapters applied in their order: which tensors it has, and each of them.

    Args:
        base: the base model's tensors.
        adapters: applied one after the other, each to what the one before left.
        sources: name of each tensor of the merged model → name of the base tensor it is made from.
        is_tied: input and output embeddings are one tensor, which is stored once.
        zeroed: tensors that hold zeros, whatever their source holds.
    """

    base: dict[str, Stored]
    adapters: tuple[Adapter, ...]
    sources: dict[str, str]
    is_tied: bool
    zeroed: frozenset[str] = frozenset()

    def is_touched(self, name: str) -> bool:
        return name in self.zeroed or any(name in adapter.updates for adapter in self.adapters)

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

    def base_blocks(self, name: str) -> Iterator[Tensor]:
        """The base's tensor in flat pieces."""
        return blocks(self.base[self.sources[name]])

    def tensor(self, name: str) -> Tensor:
        """As in the base where no adapter touches it, else merged, in float32."""
        weight = self.base_tensor(name)
        if name in self.zeroed:
            return torch.zeros_like(weight)
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
    turned = turned_weights(base)
    adapters = [_fitted(adapter, base, turned) for adapter in adapters]
    is_tied = False
    if tied and (embedding := _name_in(base, tied[1])) in base:
        head = tied[0]
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


def turned_weights(base: dict[str, Stored]) -> set[str]:
    """Weights stored as (in, out): those of Conv1D, the linear layer of GPT-2.

    Such a layer has a bias as long as its weight's second side. Where one has, all weights of the model that have a
    bias are of its kind, also the square ones; its head has none. An adapter's ``fan_in_fan_out`` says nothing: peft
    saves what holds of the last layer.
    """
    sides = {
        name: (*stored.shape, *bias.shape)
        for name, stored in base.items()
        if name.endswith(".weight") and (bias := base.get(f"{name.removesuffix('weight')}bias"))
    }
    layers = {name: shape for name, shape in sides.items() if len(shape) == 3}
    return set(layers) if any(first != second == length for first, second, length in layers.values()) else set()


def _name_in(base: dict[str, Stored], name: str) -> str:
    """As a tensor is called in the base's files, which may be of the model without its head, as GPT-2's own are."""
    shorter = name.partition(".")[2]
    return shorter if name not in base and shorter in base else name


def _fitted(adapter: Adapter, base: dict[str, Stored], turned: set[str]) -> Adapter:
    """The same adapter, its tensors for those of the base."""
    updates = {}
    for target, update in adapter.updates.items():
        name = _name_in(base, target)
        is_turned = name in turned and bool(update.lora_a or update.lora_b) and not update.is_embedding
        updates[name] = replace(update, is_turned=is_turned)
    return replace(adapter, updates=updates)


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
    if any(adapter.updates[target].bias for target in adapter.updates if target not in sources):
        raise UserError("merge.adapter_option", adapter=adapter.folder, option="lora_bias", value=True)
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
        a, b = (b[::-1], a[::-1]) if update.is_turned else (a, b)
        if not chain(shape, a, b):
            found.append(f"{target} {shape} ← A {a}, B {b}")
    if update.magnitude:
        length = math.prod(adapter.stored[update.magnitude].shape)
        if not update.lora_a or length != shape[1 if update.is_embedding or update.is_turned else 0]:
            found.append(f"{target} {shape} ← magnitude ({length},)")
    if update.angles:
        angles = adapter.stored[update.angles].shape
        if len(shape) != 2 or len(angles) != 2 or angles[0] * block_side(angles) != shape[1]:
            found.append(f"{target} {shape} ← angles {angles}")
    if update.bias and adapter.stored[update.bias].shape != shape:
        found.append(f"{target} {shape} ← {adapter.stored[update.bias].shape}")
    if update.rows and (adapter.stored[update.rows].shape[0] != len(update.indices)):
        found.append(f"{target}: {len(update.indices)} rows ← {adapter.stored[update.rows].shape}")
    return found
