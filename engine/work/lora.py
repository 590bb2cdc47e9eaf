"""New adapters beside the weights of a loaded model: LoRA in its variants, and OFT. What is trained whole with them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import LoraConfig, OFTConfig, TaskType, get_peft_model

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.work.pissa import with_pissa
from engine.work.vocabulary import embedding_names


def new_adapter(model: Any, job: TrainJob) -> Any:
    """Put an adapter that changes nothing yet beside the weights that the job names.

    Raises:
        UserError: the model has no such layers.
    """
    whole = _trained_whole(model, job)
    has_embeddings = set(embedding_names(model)) <= set(whole)
    made = _made(model, job, whole)
    if job.trains_vocabulary and has_embeddings:
        # They are saved as trained modules; peft would save the untrained ones a second time (0.21).
        made.save_pretrained = partial(made.save_pretrained, save_embedding_layers=False)
    return made


def _made(model: Any, job: TrainJob, whole: list[str]) -> Any:
    if job.finetuning_type == "oft":
        turned = targets(model, job.oft_target, "oft_target")
        config = OFTConfig(
            task_type=TaskType.SEQ_CLS if job.stage == "rm" else TaskType.CAUSAL_LM,
            r=job.oft_rank,
            oft_block_size=job.oft_block_size,
            target_modules=turned,
            modules_to_save=whole or None,
        )
        return get_peft_model(model, config)
    settings: dict[str, Any] = {}
    if job.trains_vocabulary and whole and _is_tied(model) and set(whole) & set(embedding_names(model)):
        settings["ensure_weight_tying"] = True
    if job.pissa_init:
        settings["init_lora_weights"] = "pissa" if job.pissa_iter == -1 else f"pissa_niter_{job.pissa_iter}"
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if job.stage == "rm" else TaskType.CAUSAL_LM,
        r=job.lora_rank,
        lora_alpha=job.lora_alpha if job.lora_alpha is not None else 2 * job.lora_rank,
        lora_dropout=job.lora_dropout,
        target_modules=targets(model, job.lora_target, "lora_target"),
        modules_to_save=whole or None,
        use_rslora=job.use_rslora,
        use_dora=job.use_dora,
        **settings,
    )
    return with_pissa(model, config, job.seed) if job.pissa_init else get_peft_model(model, config)


def targets(model: Any, names: tuple[str, ...], option: str) -> list[str]:
    """Leaf names of the linear layers to adapt; "all" means every one but the output layer.

    Raises:
        UserError: the model has no layers of these names.
    """
    head = model.get_output_embeddings() or getattr(model, "score", None)  # a reward model's head is trained whole
    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )
    if "all" in names:
        return linear
    if unknown := _unknown(model, names):
        raise UserError("lora_target_unknown", option=option, unknown=", ".join(unknown), known=", ".join(linear))
    return list(names)


def _trained_whole(model: Any, job: TrainJob) -> list[str]:
    """``additional_target``, and the embeddings where they get new rows that would be lost otherwise."""
    whole = [path for name in job.additional_target for path in _paths(model, name)]
    if unknown := _unknown(model, job.additional_target):
        known = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if list(module.parameters())})
        known = [name for name in known if name and not name.isdigit()]
        raise UserError("freeze_module_unknown", unknown=", ".join(unknown), known=", ".join(known))
    if job.has_new_tokens or (job.resize_vocab and not whole):
        named = {path.rpartition(".")[2] for path in whole}
        whole += [name for name in embedding_names(model) if name not in named]
    return whole


def _paths(model: Any, name: str) -> list[str]:
    """A module's name as peft must be told it, which takes "norm" for the end of "input_layernorm" too (0.21)."""
    modules = [path for path, _ in model.named_modules() if path.endswith(name)]
    meant = [path for path in modules if path == name or path.endswith(f".{name}")]
    return [name] if meant == modules else meant


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _unknown(model: Any, names: tuple[str, ...]) -> list[str]:
    modules = [name for name, _ in model.named_modules()]
    return [name for name in names if not any(path == name or path.endswith(f".{name}") for path in modules)]
