"""Which family a model belongs to, and the numbers of ``config.json`` that llama.cpp wants, by ``architectures.yaml``.

It does not look at a tensor or at the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError

DECLARATIONS = Path(__file__).with_name("architectures.yaml")


@dataclass(frozen=True)
class Architecture:
    """One family, as ``architectures.yaml`` explains its fields."""

    architecture: str
    classes: tuple[str, ...]
    pair_halves: bool = False
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
    """``config.json`` with the defaults of its model class filled in, and ``head_size`` where it can be told.

    Raises:
        UserError: the folder holds no model of a known kind, or an adapter that is not merged yet.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        key = "gguf.adapter_not_merged" if (folder / "adapter_config.json").is_file() else "gguf.not_a_model"
        raise UserError(key, path=folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (ValueError, KeyError, OSError) as error:
        raise UserError("gguf.config_unreadable", path=folder / "config.json", detail=str(error)) from error
    if config.get("num_attention_heads") and config.get("hidden_size"):
        head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        config = {**config, "head_size": head_size}
    return config


def find_architecture(config: dict[str, Any]) -> Architecture:
    """The family of a model.

    Raises:
        UserError: the family is not declared, or the model differs from it in something llama.cpp takes for granted;
            weights that are quantized already.
    """
    named = (config.get("architectures") or ["?"])[0]
    family = next((family for family in families() if named in family.classes), None)
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
    _add_rope(writer, rope_of(config))


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding of a model, in transformers 5 names: rope_theta, rope_type, factor and so on."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    rope.setdefault("rope_type", rope.get("type") or "default")
    return rope


_YARN = {"extrapolation_factor": "yarn_ext_factor", "attention_factor": "yarn_attn_factor",
         "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}  # fmt: skip


def _add_rope(writer, rope: dict[str, Any]) -> None:
    import gguf

    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind in ("default", "llama3"):  # llama3: the factors are a tensor of their own, see convert.py
        return
    if kind not in ("linear", "yarn"):
        raise UserError("gguf.rope_unknown", kind=kind)
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for name, key in _YARN.items():
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_{key}")(rope[name])
