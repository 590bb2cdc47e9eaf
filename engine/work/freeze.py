"""Which whole layers of a model are trained while the others stay as they are."""

from __future__ import annotations

import re
from typing import Any

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.work.vocabulary import embedding_names


def unfreeze_layers(model: Any, job: TrainJob) -> None:
    """Let the chosen modules of the chosen layers be trained, and the extra modules asked for; freeze all others.

    Raises:
        UserError: layers or modules that this model does not have.
    """
    chosen = trained_layers(job, model.config.get_text_config().num_hidden_layers)
    names = dict(model.named_parameters())
    layer_of = {name: int(found[1]) for name in names if (found := re.search(r"\.(\d+)\.", name))}
    wanted, extra = job.freeze_trainable_modules, job.freeze_extra_modules
    inside = {part for name in layer_of for part in re.split(r"\.\d+\.", name)[-1].split(".")[:-1]}
    outside = {part for name in names if name not in layer_of for part in name.split(".")[:-1]} - {"model"}
    unknown = [each for each in wanted if each != "all" and each not in inside]
    if unknown:
        raise UserError("freeze_module_unknown", unknown=", ".join(unknown), known=", ".join(sorted(inside)))
    unknown = [each for each in extra if each not in inside | outside]
    if unknown:
        raise UserError("freeze_module_unknown", unknown=", ".join(unknown), known=", ".join(sorted(inside | outside)))
    if job.trains_vocabulary:
        extra = (*extra, *embedding_names(model))
    for name, parameter in names.items():
        parts = name.split(".")
        is_asked = "all" in wanted or any(each in parts for each in wanted)
        is_extra = any(each in parts for each in extra)
        parameter.requires_grad_((layer_of.get(name) in chosen and is_asked) or is_extra)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise UserError("freeze_nothing", known=", ".join(sorted(inside)))


def trained_layers(job: TrainJob, layers: int) -> range:
    """Numbers of the layers that are trained: the last n (n > 0), the first n (n < 0), or every (layers / n)th.

    The last is LLaMA Pro's rule (Wu et al. 2024, arXiv 2401.02415): of a model that was expanded by n layers at equal
    distances, those are trained, layers/n - 1, 2 · layers/n - 1 and so on.

    Raises:
        UserError: there are not so many layers, or they cannot be divided.
    """
    count = job.freeze_trainable_layers
    if count == 0 or abs(count) > layers:
        raise UserError("freeze_layers_out_of_range", count=count, layers=layers)
    if job.use_llama_pro:
        if layers % count:
            divisors = ", ".join(str(each) for each in range(1, layers + 1) if layers % each == 0)
            raise UserError("llama_pro_indivisible", count=count, layers=layers, divisors=divisors)
        stride = layers // count
        return range(stride - 1, layers, stride)
    return range(layers - count, layers) if count > 0 else range(-count)
