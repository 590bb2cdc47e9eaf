"""How large a .gguf file will be, from the headers of a model's safetensors files; no weight is read.

It knows how many bits each type spends and on which tensors llama.cpp spends more; not how a file is made.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NamedTuple, get_args

from engine.catalog.shape import read_header
from engine.options.export import OUTTYPES

BITS = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.5625, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5,
    "iq4_nl": 4.5, "q5_k": 5.5, "q4_k": 4.5,
}  # fmt: skip
"""Bits a weight of types that store every tensor alike: a block's numbers and its scale."""


class Mixture(NamedTuple):
    """What llama.cpp's mixtures come to.

    Args:
        bits: a weight, over all matrices of the layers (measured; the mixture depends a little on the model).
        output: type of the output layer, or of the embedding that stands for it.
        fallback: type of a matrix whose rows are no multiple of 256.
    """

    bits: float
    output: str
    fallback: str


MIXTURES = {
    "q6_k": Mixture(6.56, "q8_0", "q8_0"),
    "q5_k_m": Mixture(5.68, "q6_k", "q5_1"), "q5_k_s": Mixture(5.50, "q6_k", "q5_1"),
    "q4_k_m": Mixture(4.83, "q6_k", "q5_0"), "q4_k_s": Mixture(4.57, "q6_k", "q5_0"),
    "iq4_nl": Mixture(4.56, "q6_k", "iq4_nl"), "iq4_xs": Mixture(4.31, "q6_k", "iq4_nl"),
    "q3_k_l": Mixture(4.20, "q6_k", "iq4_nl"), "q3_k_m": Mixture(3.85, "q6_k", "iq4_nl"),
    "q3_k_s": Mixture(3.44, "q6_k", "iq4_nl"), "iq3_m": Mixture(3.62, "q6_k", "iq4_nl"),
    "iq3_s": Mixture(3.44, "q6_k", "iq4_nl"), "iq3_xs": Mixture(3.29, "q6_k", "iq4_nl"),
    "iq3_xxs": Mixture(3.12, "q5_k", "iq4_nl"), "q2_k": Mixture(2.95, "q6_k", "iq4_nl"),
    "q2_k_s": Mixture(2.70, "q6_k", "iq4_nl"), "iq2_m": Mixture(2.70, "q5_k", "iq4_nl"),
    "iq2_s": Mixture(2.50, "q5_k", "iq4_nl"), "iq2_xs": Mixture(2.35, "q5_k", "iq4_nl"),
    "iq2_xxs": Mixture(2.10, "q5_k", "iq4_nl"), "iq1_m": Mixture(1.80, "q5_k", "iq4_nl"),
    "iq1_s": Mixture(1.62, "q5_k", "iq4_nl"),
}  # fmt: skip
EMBEDDINGS = ("model.embed_tokens.weight", "model.tok_embeddings.weight")
HEADS = ("lm_head.weight", "output.weight")
BYTES_PER_TOKEN = 45
"""Of the vocabulary, with its merges; counted where the tensors are small enough for it to matter."""


def expected_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the file of each type that can be asked for; empty if the folder holds no readable weights."""
    try:
        shapes = tensor_shapes(folder)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return {}
    return {outtype: expected_size(shapes, outtype) for outtype in get_args(OUTTYPES)} if shapes else {}


def expected_size(shapes: dict[str, tuple[int, ...]], outtype: str) -> int:
    """Bytes of one file.

    Args:
        shapes: of the model's tensors, as its safetensors files name them.
    """
    outputs = [name for name in HEADS if name in shapes] or [name for name in EMBEDDINGS if name in shapes]
    total = 0.0
    for name, shape in shapes.items():
        total += math.prod(shape) * (32 if len(shape) == 1 else _bits(outtype, shape, name in outputs)) / 8
    rows = max((shapes[name][0] for name in EMBEDDINGS if name in shapes), default=0)
    return int(total + rows * BYTES_PER_TOKEN)


def _bits(outtype: str, shape: tuple[int, ...], is_output: bool) -> float:
    if outtype in MIXTURES:
        mixture = MIXTURES[outtype]
        is_whole = shape[-1] % 256 == 0
        if is_output:
            return BITS[mixture.output if is_whole else "q8_0"]
        bits = mixture.bits if is_whole or outtype == "iq4_nl" else BITS[mixture.fallback]
        return bits if shape[-1] % 32 == 0 else 16
    if is_output and outtype in ("q5_1", "q5_0", "q4_1", "q4_0"):
        outtype = "q8_0"  # as convert.py stores it
    return BITS[outtype] if BITS[outtype] >= 16 or shape[-1] % 32 == 0 else 16


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in all of a folder's safetensors files, by their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        shapes |= {name: tuple(each["shape"]) for name, each in read_header(path).items()}
    return shapes
