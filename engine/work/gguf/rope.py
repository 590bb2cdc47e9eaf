"""The rotary embedding of a model: how config.json says it, and what llama.cpp is told of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.errors import UserError

LOCAL = "sliding_attention"
UNSCALED = ("default", "llama3", "dynamic")
"""Kinds that llama.cpp has no key for. llama3: its factors are a tensor. dynamic: it changes nothing up to the length
that the model was trained for, which is the context length in the file."""
_YARN = {"extrapolation_factor": "yarn_ext_factor", "attention_factor": "yarn_attn_factor",
         "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}  # fmt: skip


def rope_of(config: dict[str, Any], layers: str = "full_attention") -> dict[str, Any]:
    """The rotary embedding of a model, in transformers 5 names: rope_theta, rope_type, factor and so on.

    Args:
        layers: which layers' it is, where a model has two.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope = dict(rope.get(layers) or rope)
    rope.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    rope.setdefault("rope_type", rope.get("type") or "default")
    return rope


def add_rope(writer, config: dict[str, Any], architecture: str) -> None:
    """Write it into a file's metadata.

    Raises:
        UserError: positions of a kind that is not known.
    """
    import gguf

    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if LOCAL in (config.get("rope_parameters") or {}):
        writer.add_rope_freq_base_swa(rope_of(config, LOCAL)["rope_theta"])
    kind = rope["rope_type"]
    if kind in UNSCALED:
        return
    if kind == "longrope" and architecture == "phi3":
        writer.add_rope_scaling_attn_factors(_long_attention_factor(config, rope))
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


def rope_factors(config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """What llama.cpp divides each frequency by, as tensors: Llama 3's one, Phi 3's two."""
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        yield "rope_freqs.weight", llama3_factors(config["head_size"], rope)
    if rope["rope_type"] == "longrope":
        for kind in ("long", "short"):
            yield f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], np.float32)


def llama3_factors(head_size: int, rope: dict[str, Any]) -> np.ndarray:
    """By how much each rotation of a head is slowed down, shape (head_size / 2,).

    Fast rotations stay (1), slow ones are divided by ``factor``, those between go smoothly from one to the other.

    Source: ``_compute_llama3_parameters`` in transformers' modeling_rope_utils.py.
    """
    frequency = 1.0 / np.float32(rope["rope_theta"]) ** (np.arange(0, head_size, 2, dtype=np.float32) / head_size)
    wavelength = np.float32(2 * np.pi) / frequency  # float32 to the end, as transformers and the reference converter do
    low, high, factor = (rope[name] for name in ("low_freq_factor", "high_freq_factor", "factor"))
    context = rope["original_max_position_embeddings"]
    smooth = (context / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength < context / high, 1.0, np.where(wavelength > context / low, factor, between))
    return factors.astype(np.float32)


def _long_attention_factor(config: dict[str, Any], rope: dict[str, Any]) -> float:
    """By how much LongRoPE scales queries and keys: the longer the context is against the first one, the more."""
    first = rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
    stretch = config["max_position_embeddings"] / first
    return math.sqrt(1 + math.log(stretch) / math.log(first)) if stretch > 1 else 1.0
