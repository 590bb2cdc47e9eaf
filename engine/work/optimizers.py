"""The optimizers that an option of their own chooses, in place of the one that ``optim`` names.

Each is a package's or PyTorch's own, given this model's weights in the groups it wants; only the order in which BAdam
moves blocks, and moving weights one by one in the backward pass, are done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import Trainer, TrainingArguments

from engine.options.jobs import TrainJob
from engine.work.lora import targets
from engine.work.loraplus import loraplus_optimizer

Named = list[tuple[str, nn.Parameter]]


def optimizer_of(job: TrainJob, arguments: TrainingArguments) -> tuple[Callable[[], Any], dict[str, Any]] | None:
    """What makes the optimizer, as ``Trainer.optimizer_cls_and_kwargs`` takes it; None: transformers' own does.

    The trainer calls it with the model as it is trained, wrapped by whatever engine spreads it over processes.
    """
    is_loraplus = job.loraplus_lr_ratio and job.has_effect("loraplus_lr_ratio")
    chosen = [*job.optimizers_by_switch, *(["loraplus"] if is_loraplus else [])]
    if not chosen:
        return None
    make = _MAKERS[chosen[0]]
    return (lambda: lambda model: make(model, job, arguments)), {}


class Together(Optimizer):
    """Several optimizers as one: their groups side by side, so that one scheduler sets the rates of all."""

    def __init__(self, inner: Iterable[Optimizer]) -> None:
        self.inner = list(inner)
        super().__init__([group for each in self.inner for group in each.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for each in self.inner:
            each.step()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [each.state_dict() for each in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for each, state in zip(self.inner, state_dict["inner"], strict=True):
            each.load_state_dict(state)
        self.param_groups[:] = [group for each in self.inner for group in each.param_groups]


class Layerwise(Together):
    """Each weight moves in the backward pass as soon as its gradient is complete, which is forgotten then."""

    def __init__(self, inner: dict[nn.Parameter, Optimizer]) -> None:
        super().__init__(inner.values())
        for parameter, own in inner.items():
            parameter.register_post_accumulate_grad_hook(lambda each, own=own: _step_and_forget(own))

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """All is done already."""


class BlockAdamW(Optimizer):
    """AdamW on one block of layers at a time; the others have no gradients (Luo et al. 2024, arXiv 2404.02827).

    Args:
        blocks: the weights of each layer, in their order.
        groups: makes AdamW's groups of some weights.
        settings: AdamW's own.
        interval: steps with a block; -1: all of them.
        order: "ascending", "descending", "random" or "fixed".
        first: the block that begins; None: the first of the order.
    """

    def __init__(
        self, blocks: list[Named], groups: Callable[[Named], list[dict[str, Any]]], settings: dict[str, Any],
        *, interval: int, order: str, first: int | None, seed: int,
    ) -> None:  # fmt: skip
        self._blocks, self._groups, self._settings = blocks, groups, settings
        self._interval, self._order, self._seed = interval, order, seed
        last = len(blocks) - 1
        self._at = first if first is not None else last if order == "descending" else 0
        self._steps, self._turn = 0, []
        if first is None and order == "random":
            self._at = self._next()
        self._active = self._begin()
        super().__init__(self._active.param_groups, settings)
        self.param_groups = self._active.param_groups

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        self._active.step()
        self._steps += 1
        if self._interval > 0 and self._steps % self._interval == 0 and self._order != "fixed":
            before = self.param_groups
            self._at = self._next()
            self._active = self._begin()
            self.param_groups = self._active.param_groups
            for group, earlier in zip(self.param_groups, before, strict=True):
                group |= {name: earlier[name] for name in ("lr", "initial_lr") if name in earlier}  # the scheduler's

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._active.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"active": self._active.state_dict(), "at": self._at, "steps": self._steps, "turn": list(self._turn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._at, self._steps, self._turn = state_dict["at"], state_dict["steps"], list(state_dict["turn"])
        self._active = self._begin()
        self._active.load_state_dict(state_dict["active"])
        self.param_groups = self._active.param_groups

    def _next(self) -> int:
        if self._order == "descending":
            return (self._at - 1) % len(self._blocks)
        if self._order != "random":
            return (self._at + 1) % len(self._blocks)
        if not self._turn:
            generator = torch.Generator().manual_seed(self._seed + self._steps)
            self._turn = torch.randperm(len(self._blocks), generator=generator).tolist()
        return self._turn.pop()

    def _begin(self) -> AdamW:
        """AdamW anew on the block whose turn it is, the only one that gets gradients."""
        for number, block in enumerate(self._blocks):
            for _, parameter in block:
                parameter.requires_grad_(number == self._at)
        return AdamW(self._groups(self._blocks[self._at]), **self._settings)


def _galore(model: Any, job: TrainJob, arguments: TrainingArguments) -> Optimizer:
    from galore_torch import GaLoreAdamW, GaLoreAdamW8bit
    from galore_torch.galore_projector import GaLoreProjector

    torch.serialization.add_safe_globals([GaLoreProjector])  # it lies in the optimizer's state
    projected = {
        "rank": job.galore_rank, "update_proj_gap": job.galore_update_interval, "scale": job.galore_scale,
        "proj_type": job.galore_proj_type,
    }  # fmt: skip
    kind = GaLoreAdamW8bit if "8bit" in job.optim else GaLoreAdamW
    names = targets(model, job.galore_target, "galore_target")
    return _low_rank(model, arguments, kind, projected, names, job.galore_layerwise)


def _apollo(model: Any, job: TrainJob, arguments: TrainingArguments) -> Optimizer:
    from apollo_torch import APOLLOAdamW
    from apollo_torch.random_projector import GradientProjector
    from apollo_torch.svd_projector import GaLoreProjector

    torch.serialization.add_safe_globals([GradientProjector, GaLoreProjector])
    projected = {
        "rank": job.apollo_rank, "update_proj_gap": job.apollo_update_interval, "scale": job.apollo_scale,
        "proj": job.apollo_proj, "proj_type": job.apollo_proj_type, "scale_type": job.apollo_scale_type,
    }  # fmt: skip
    names = targets(model, job.apollo_target, "apollo_target")

    def kind(groups: Any, **settings: Any) -> Optimizer:
        return APOLLOAdamW(groups, scale_front=job.apollo_scale_front, **settings)

    return _low_rank(model, arguments, kind, projected, names, job.apollo_layerwise)


def _low_rank(
    model: Any, arguments: TrainingArguments, kind: Callable[..., Optimizer], projected: dict[str, Any],
    names: list[str], is_layerwise: bool,
) -> Optimizer:  # fmt: skip
    """An optimizer that projects the gradients of the linear layers of these names, and decays as all others do."""
    chosen = {
        id(module.weight) for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in names and module.weight.requires_grad
    }  # fmt: skip
    trained = _trained(model)
    groups = _decayed(model, [each for each in trained if id(each[1]) not in chosen], arguments)
    low = [parameter for _, parameter in trained if id(parameter) in chosen]
    groups.append({"params": low, "weight_decay": arguments.weight_decay, **projected})
    settings = {
        "lr": arguments.learning_rate, "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }  # fmt: skip
    groups = [group for group in groups if group["params"]]
    if not is_layerwise:
        return kind(groups, **settings)
    return Layerwise(
        {each: kind([{**group, "params": [each]}], **settings) for group in groups for each in group["params"]}
    )


def _badam(model: Any, job: TrainJob, arguments: TrainingArguments) -> Optimizer:
    blocks: dict[str, Named] = {}
    for name, parameter in _trained(model):
        found = re.search(r"\.?layers\.\d+\.", name)
        if found:
            blocks.setdefault(name[: found.end()], []).append((name, parameter))
        else:
            parameter.requires_grad_(False)  # embeddings, output layer and what stands before and behind the layers
    return BlockAdamW(
        list(blocks.values()), lambda named: _decayed(model, named, arguments), _adam_settings(arguments),
        interval=job.badam_switch_interval, order=job.badam_switch_mode, first=job.badam_start_block, seed=job.seed,
    )  # fmt: skip


def _adam_mini(model: Any, job: TrainJob, arguments: TrainingArguments) -> Optimizer:
    from adam_mini import Adam_mini

    config = model.config
    made = Adam_mini(
        named_parameters=_trained(model), **_adam_settings(arguments), weight_decay=arguments.weight_decay,
        dim=config.hidden_size, n_heads=config.num_attention_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None), verbose=False,
    )  # fmt: skip
    made.world_size = 1  # it takes all GPUs of the machine for shards of the model (1.1.1)
    return made


def _muon(model: Any, job: TrainJob, arguments: TrainingArguments) -> Optimizer:
    """Muon for the matrices of the hidden layers, AdamW for all else; both then move by about the same amount."""
    ends = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    trained = _trained(model)
    matrices, others = [], []
    for name, parameter in trained:
        is_hidden = parameter.ndim == 2 and id(parameter) not in ends and "embed" not in name
        (matrices if is_hidden else others).append((name, parameter))
    inner: list[Optimizer] = []
    if matrices:
        inner.append(
            torch.optim.Muon(
                [parameter for _, parameter in matrices], lr=arguments.learning_rate,
                weight_decay=arguments.weight_decay, adjust_lr_fn="match_rms_adamw",
            )
        )  # fmt: skip
    if others:
        inner.append(AdamW(_decayed(model, others, arguments), **_adam_settings(arguments)))
    return Together(inner)


_MAKERS: dict[str, Callable[[Any, TrainJob, TrainingArguments], Optimizer]] = {
    "use_galore": _galore, "use_apollo": _apollo, "use_badam": _badam, "use_adam_mini": _adam_mini, "use_muon": _muon,
    "loraplus": loraplus_optimizer,
}  # fmt: skip


def _trained(model: Any) -> Named:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _decayed(model: Any, named: Named, arguments: TrainingArguments) -> list[dict[str, Any]]:
    """Two groups: weights that decay, and biases and norms, which do not."""
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    apart: list[list[nn.Parameter]] = [[], []]
    for name, parameter in named:
        apart[name not in decaying].append(parameter)
    return [{"params": apart[0], "weight_decay": arguments.weight_decay}, {"params": apart[1], "weight_decay": 0.0}]


def _adam_settings(arguments: TrainingArguments) -> dict[str, Any]:
    return {
        "lr": arguments.learning_rate, "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }  # fmt: skip


def _step_and_forget(own: Optimizer) -> None:
    own.step()
    own.zero_grad()
