"""Which weights of a loaded model are trained: all, some layers, or LoRA adapters added, stacked or resumed."""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from engine.errors import UserError
from engine.options.jobs import TrainJob


def make_trainable(model: Any, job: TrainJob, dtype: str = "float32") -> Any:
    """Choose what is trained.

    Args:
        dtype: of the weights that are trained, whatever the base model's is: small updates are rounded away in
            anything but "float32".

    Raises:
        UserError: layers, modules or adapters that do not fit this model.
    """
    if job.finetuning_type == "lora":
        model = _with_lora(model, job)
    elif job.finetuning_type == "freeze":
        _unfreeze_layers(model, job)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def _with_lora(model: Any, job: TrainJob) -> Any:
    """Merge earlier adapters, then go on with the last one or begin a new one."""
    merged = list(job.adapter_name_or_path)
    continued = None if job.create_new_adapter or not merged else merged.pop()
    for path in merged:
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    if continued:
        return PeftModel.from_pretrained(model, continued, is_trainable=True)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=job.lora_rank,
        lora_alpha=job.lora_alpha if job.lora_alpha is not None else 2 * job.lora_rank,
        lora_dropout=job.lora_dropout,
        target_modules=_targets(model, job.lora_target),
        modules_to_save=list(job.additional_target) or None,
        use_rslora=job.use_rslora,
        use_dora=job.use_dora,
    )
    return get_peft_model(model, config)


def _targets(model: Any, names: tuple[str, ...]) -> list[str]:
    """Leaf names of the linear layers to adapt; "all" means every one but the output layer."""
    head = model.get_output_embeddings()
    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )
    if "all" in names:
        return linear
    modules = [name for name, _ in model.named_modules()]
    unknown = [name for name in names if not any(path == name or path.endswith(f".{name}") for path in modules)]
    if unknown:
        raise UserError("lora_target_unknown", unknown=", ".join(unknown), known=", ".join(linear))
    return list(names)


def _unfreeze_layers(model: Any, job: TrainJob) -> None:
    """Train the last n layers (n > 0) or the first n (n < 0), and the extra modules asked for."""
    count, layers = job.freeze_trainable_layers, model.config.num_hidden_layers
    if count == 0 or abs(count) > layers:
        raise UserError("freeze_layers_out_of_range", count=count, layers=layers)
    chosen = range(layers - count, layers) if count > 0 else range(-count)
    names = dict(model.named_parameters())
    layer_of = {name: int(found[1]) for name in names if (found := re.search(r"\.(\d+)\.", name))}
    wanted = job.freeze_trainable_modules
    known = {part for name in names for part in name.split(".")}
    unknown = [each for each in (*wanted, *job.freeze_extra_modules) if each != "all" and each not in known]
    if unknown:
        inside = {part for name in layer_of for part in re.split(r"\.\d+\.", name)[-1].split(".")[:-1]}
        raise UserError("freeze_module_unknown", unknown=", ".join(unknown), known=", ".join(sorted(inside)))
    for name, parameter in names.items():
        parts = name.split(".")
        asked = "all" in wanted or any(each in parts for each in wanted)
        extra = any(each in parts for each in job.freeze_extra_modules)
        parameter.requires_grad_((layer_of.get(name) in chosen and asked) or extra)
