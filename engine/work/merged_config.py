"""The config.json of a merged model, and what the base model's says of its weights. Weights are not read here."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.work.expand import expand_config
from engine.work.imports import load_libraries
from engine.work.merge import Merge
from engine.work.rope import stretch

USUAL = ("lm_head.weight", "model.embed_tokens.weight")
"""Output and input embedding, as nearly all models call them."""


def tied_embeddings(base: Path, names: Collection[str], trust_remote_code: bool) -> tuple[str, str] | None:
    """Names of the output and the input embedding of a model whose configuration ties them.

    Args:
        names: of the base's tensors.

    Raises:
        UserError: the base model is quantized: its weights are no plain numbers to add to.
    """
    known = _tied_by_file(base, names)
    if known is not None:
        return USUAL if known else None
    load_libraries()
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError("merge.file_broken", path=base / "config.json", detail=error) from error
    if getattr(config, "quantization_config", None):
        raise UserError("merge.base_quantized", path=base)
    if not config.get_text_config().tie_word_embeddings:
        return None
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    pairs = getattr(model, "_tied_weights_keys", None)
    if isinstance(pairs, dict) and len(pairs) == 1:
        return next(iter(pairs.items()))
    return USUAL


def _tied_by_file(base: Path, names: Collection[str]) -> bool | None:
    """What config.json itself says of the usual names; None: only transformers knows, and that takes seconds to load.

    Raises:
        UserError: it is no JSON.
    """
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("merge.file_broken", path=base / "config.json", detail=error) from error
    if config.get("quantization_config") or USUAL[1] not in names or "text_config" in config:
        return None
    return config.get("tie_word_embeddings")


def layer_count(base: Path, trust_remote_code: bool) -> int:
    load_libraries()
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code).get_text_config().num_hidden_layers


def merged_config(base: Path, merge: Merge, job: ExportJob, dtype: torch.dtype) -> dict[str, Any]:
    """The base model's config.json, with the dtype, the vocabulary's size and the tying of the merged model."""
    from transformers import AutoConfig

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in ("dtype", "torch_dtype"):
            if name in part:
                part[name] = str(dtype).removeprefix("torch.")
    if "torch_dtype" not in config:
        config["dtype"] = str(dtype).removeprefix("torch.")
    tied = tied_embeddings(base, merge.base, job.trust_remote_code)
    if tied and not merge.is_tied:
        text["tie_word_embeddings"] = config["tie_word_embeddings"] = False
    if job.expand_layers:
        expand_config(text, job.expand_layers)
    stretched = AutoConfig.from_pretrained(base, trust_remote_code=job.trust_remote_code)
    if stretch(stretched, job):
        _write_rope(text, stretched.get_text_config())
    for name in merge.sources:
        if name.endswith(("embed_tokens.weight", "wte.weight", "tok_embeddings.weight")) and merge.is_touched(name):
            text["vocab_size"] = merge.shape(name)[0]
    return config


def _write_rope(text: dict[str, Any], stretched: Any) -> None:
    """Spell a rotary embedding as the file does: transformers 5 writes ``rope_parameters``, older ones two names."""
    text["max_position_embeddings"] = stretched.max_position_embeddings
    rope = dict(stretched.rope_parameters)
    if "rope_parameters" not in text:
        text["rope_theta"] = rope.pop("rope_theta")
    text["rope_parameters" if "rope_parameters" in text else "rope_scaling"] = rope
