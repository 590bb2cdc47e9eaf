"""Which weights of a loaded model are trained: all, some layers, or adapters added, stacked or continued."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.work.freeze import unfreeze_layers
from engine.work.imports import without_bitsandbytes
from engine.work.load import fit_to_adapter, plain_tokenizer, read_adapter_config
from engine.work.lora import new_adapter
from engine.work.vocabulary import fit_vocabulary


@without_bitsandbytes()
def make_trainable(
    model: Any, job: TrainJob, dtype: str = "float32", tokenizer: PreTrainedTokenizerBase | None = None
) -> Any:
    """Choose what is trained, and give new tokens their rows.

    Args:
        dtype: of the weights that are trained, whatever the base model's is: small updates are rounded away in
            anything but "float32".
        tokenizer: with the new tokens; needed only where the job adds some.

    Raises:
        UserError: layers, modules or adapters that do not fit this model.
    """
    adapters, continued = list(job.adapters), None
    if adapters and not job.create_new_adapter:
        continued = adapters.pop()
    for path in adapters:
        read_adapter_config(path)
        fit_to_adapter(model, path)
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    if job.trains_vocabulary and tokenizer is not None:
        known = plain_tokenizer(tokenizer.name_or_path, job)
        if continued and len(tokenizer) > len(known):
            raise UserError("tokens_need_new_adapter", path=continued, count=len(tokenizer) - len(known))
        fit_vocabulary(model, tokenizer, known, job)
    if continued:
        read_adapter_config(continued, kind=job.finetuning_type)
        fit_to_adapter(model, continued)
        model = PeftModel.from_pretrained(model, continued, is_trainable=True)
    elif job.finetuning_type in ("lora", "oft"):
        model = new_adapter(model, job)
    elif job.finetuning_type == "freeze":
        unfreeze_layers(model, job)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype))
        elif job.upcast_layernorm and parameter.ndim == 1 and "norm" in name:
            parameter.data = parameter.data.float()
    return model
