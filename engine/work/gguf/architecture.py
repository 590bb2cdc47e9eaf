"""Which family a model belongs to, and the numbers of ``config.json`` that llama.cpp wants, by ``architectures.yaml``.

It does not look at a tensor or at the tokenizer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError
from engine.work.gguf.rope import add_rope

DECLARATIONS = Path(__file__).with_name("architectures.yaml")


@dataclass(frozen=True)
class Architecture:
    """One family, as ``architectures.yaml`` explains its fields."""

    architecture: str
    classes: tuple[str, ...]
    pair_halves: bool = False
    groups_qkv: bool = False
    own_code: bool = False
    norm_offset: float = 0.0
    integers: dict[str, str] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    omit: tuple[str, ...] = ()
    needs: dict[str, list] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def families() -> tuple[Architecture, ...]:
    """All families, each with the keys that every family has."""
    content = yaml.safe_load(DECLARATIONS.read_text(encoding="utf-8"))
    every = content["every"]
    return tuple(
        Architecture(
            **{
                **family,
                "classes": tuple(family["classes"]),
                "integers": {**every["integers"], **family.get("integers", {})},
                "floats": {**every["floats"], **family.get("floats", {})},
            }
        )
        for family in content["families"]
    )


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` with the defaults of its model class, and what follows from it (see :func:`_with_derived`).

    Raises:
        UserError: the folder holds no model of a known kind, or an adapter without its base.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    if not path.is_file():
        key = "gguf.adapter_not_merged" if (folder / "adapter_config.json").is_file() else "gguf.not_a_model"
        raise UserError(key, path=folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        family = family_of(config)
        if family is None:
            return config
        if not family.own_code:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (ValueError, KeyError, OSError) as error:
        raise UserError("gguf.config_unreadable", path=path, detail=str(error)) from error
    return _with_derived(config)


def _with_derived(config: dict[str, Any]) -> dict[str, Any]:
    """Further names for ``architectures.yaml``: head_size, rotary_size, num_experts, window and window_pattern.

    window: sliding_window, or 0. window_pattern: every how many layers one looks at everything; None where none does,
    or the model has one kind of layer.
    """
    if not (config.get("num_attention_heads") and config.get("hidden_size")):
        return config
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    is_full = [kind == "full_attention" for kind in config.get("layer_types") or ()]
    step = is_full.index(True) + 1 if True in is_full else None
    is_regular = step is None or is_full == [(number + 1) % step == 0 for number in range(len(is_full))]
    return {
        **config,
        "head_size": head_size,
        "rotary_size": int(share * config["hidden_size"]) // config["num_attention_heads"],
        "num_experts": config.get("num_experts") or config.get("num_local_experts"),
        "window": config.get("sliding_window") or 0,
        "window_pattern": step if is_regular else "irregular",
    }


def family_of(config: dict[str, Any]) -> Architecture | None:
    named = (config.get("architectures") or ["?"])[0]
    return next((family for family in families() if named in family.classes), None)


def find_architecture(config: dict[str, Any]) -> Architecture:
    """The family of a model.

    Raises:
        UserError: the family is not declared, or the model differs from it in something llama.cpp takes for granted;
            weights that are quantized already.
    """
    named = (config.get("architectures") or ["?"])[0]
    family = family_of(config)
    if family is None:
        known = ", ".join(name for family in families() for name in family.classes)
        raise UserError("gguf.architecture_unknown", architecture=named, known=known)
    if config.get("quantization_config"):
        raise UserError("gguf.already_quantized", method=config["quantization_config"].get("quant_method"))
    for name, allowed in family.needs.items():
        if config.get(name) not in allowed:
            raise UserError("gguf.variant_unknown", architecture=named, option=name, value=config.get(name))
    return family


def add_parameters(writer, family: Architecture, config: dict[str, Any]) -> None:
    """Write the numbers of a model into the file's metadata.

    Args:
        writer: an open ``gguf.GGUFWriter``.
        config: as :func:`read_config` returns it.
    """
    for key, name in family.integers.items():
        if key not in family.omit and config.get(name) is not None:
            writer.add_uint32(f"{family.architecture}.{key}", int(config[name]))
    for key, name in family.floats.items():
        if key not in family.omit and config.get(name) is not None:
            writer.add_float32(f"{family.architecture}.{key}", float(config[name]))
    add_rope(writer, config, family.architecture)
