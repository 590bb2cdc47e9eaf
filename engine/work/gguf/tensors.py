"""Which tensors a .gguf file will hold, and how each is read from the model's: names, order of rows, experts, types.

It reads and writes nothing; ``convert.py`` does, a few rows at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from engine.errors import UserError
from engine.work.gguf.architecture import Architecture
from engine.work.gguf.rope import rope_factors
from engine.work.gguf.source import Weight

CHUNK_BYTES = 32 * 2**20
"""Of float32 values held at once; quantising needs about four times as much."""

TYPES = {outtype: Type[outtype.upper()] for outtype in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")}
"""The types that the gguf package can write; llama.cpp makes the others."""
COARSE = (Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.Q4_0)

EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+\.weight)$")
ALL_EXPERTS = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(gate_up_proj|down_proj)$")
LEFT_OUT = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True)
class Planned:
    """One tensor of the file to be.

    Args:
        name: in the file.
        shape: as numpy has it; the file lists the axes the other way round.
        rows: ``rows(start, stop)`` gives that part of the first axis as float32.
        is_output: it makes the logits; there, rounding is seen most.
    """

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]
    is_output: bool = False

    def stored_as(self, outtype: str) -> Type:
        """How it is stored in a file of a type.

        Vectors, norms and what chooses experts are float32: llama.cpp computes with them in no other type. The output
        layer of the coarse types is Q8_0. A row that a type cannot divide into its blocks is stored in float16.
        """
        is_small = len(self.shape) <= 1 or self.name.endswith(("_norm.weight", ".ffn_gate_inp.weight"))
        if is_small or not self.name.endswith((".weight", ".lora_a", ".lora_b")):
            return Type.F32
        stored = TYPES[outtype]
        if self.is_output and stored in COARSE:
            stored = Type.Q8_0
        return stored if self.shape[-1] % gguf.GGML_QUANT_SIZES[stored][0] == 0 else Type.F16

    def size_bytes(self, outtype: str) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.stored_as(outtype)]
        return math.prod(self.shape) // block * block_bytes

    def chunks(self) -> Iterator[np.ndarray]:
        """All values as float32, in parts of at most ``CHUNK_BYTES`` (or one row)."""
        step = max(1, CHUNK_BYTES // 4 // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))


def plan(weights: dict[str, Weight], family: Architecture, config: dict[str, Any]) -> list[Planned]:
    """What the file will hold, in its order. Nothing is read yet.

    Raises:
        UserError: a tensor is not part of the family's architecture, or an expert is missing.
    """
    names = tensor_names(family, config)
    planned = [Planned(name, each.shape, _all_of(each)) for name, each in rope_factors(config)]
    experts: dict[str, dict[int, Weight]] = {}
    for weight in weights.values():
        if weight.name.endswith(LEFT_OUT):
            continue
        if weight.name in family.ignore:  # llama.cpp takes the embedding in its place
            if not (config.get("tie_word_embeddings") or _is_copy(weights)):
                raise UserError("gguf.tensor_unknown", tensor=weight.name, architecture=family.architecture)
            continue
        if weight.name == "lm_head.weight" and config.get("tie_word_embeddings") and _is_copy(weights):
            continue
        if match := EXPERT.match(weight.name):
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = weight
        elif match := ALL_EXPERTS.match(weight.name):
            planned += _stacked(weight, match, names, family)
        else:
            planned += _placed(weight, names, family, config)
    planned += [_together(name, each, names, family, config) for name, each in experts.items()]
    output = "output.weight" if any(each.name == "output.weight" for each in planned) else "token_embd.weight"
    return [Planned(each.name, each.shape, each.rows, each.name == output) for each in planned]


def tensor_names(family: Architecture, config: dict[str, Any]):
    """gguf's map of names for a family."""
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    return gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])


def places(
    name: str, rows: int, names, family: Architecture, config: dict[str, Any]
) -> list[tuple[str, np.ndarray | None]]:
    """Where the rows of a tensor go: its name or names in the file, and which rows each takes (None: all, in order).

    Raises:
        UserError: the architecture has no place for it.
    """
    fused = re.search(r"(model\.layers\.\d+\.)attention\.wqkv(\.\w+)$", name)
    if family.groups_qkv and fused:
        queries, keys, values = grouped_rows(rows, config)
        return [
            (_name_of(f"{fused[1]}self_attn.{kind}_proj{fused[2]}", names, family), order)
            for kind, order in (("q", queries), ("k", keys), ("v", values))
        ]
    order = None
    match = re.search(r"\.([qk])_proj\.(weight|bias)$", name)
    if family.pair_halves and match:
        order = paired_order(rows, config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"])
    return [(_name_of(name, names, family), order)]


def paired_order(rows: int, heads: int) -> np.ndarray:
    """Which row of a q or k projection stands where, once the partners of a rotation are neighbours.

    Hugging Face rotates row i of a head's first half with row i of its second half; here they become 2i and 2i + 1.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def grouped_rows(rows: int, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of queries, keys and values in InternLM2's one matrix: by group the queries, then a key and a value."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    each = np.arange(rows).reshape(groups, heads // groups + 2, -1)
    queries, keys, values = each[:, :-2].reshape(-1), each[:, -2].reshape(-1), each[:, -1].reshape(-1)
    return queries[paired_order(len(queries), heads)], keys[paired_order(len(keys), groups)], values


def _name_of(name: str, names, family: Architecture) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise UserError("gguf.tensor_unknown", tensor=name, architecture=family.architecture)
    return found


def _placed(weight: Weight, names, family: Architecture, config: dict[str, Any]) -> list[Planned]:
    offset = np.float32(family.norm_offset if weight.name.endswith("norm.weight") else 0)
    planned = []
    for name, order in places(weight.name, weight.shape[0], names, family, config):
        shape = weight.shape if order is None else (len(order), *weight.shape[1:])
        planned.append(Planned(name, shape, _rows_of(weight, order, offset)))
    return planned


def _rows_of(weight: Weight, order: np.ndarray | None, offset: np.float32) -> Callable[[int, int], np.ndarray]:
    if order is not None:
        return lambda start, stop: weight.rows(order[start:stop])
    if offset:
        return lambda start, stop: weight.rows(slice(start, stop)) + offset
    return lambda start, stop: weight.rows(slice(start, stop))


def _all_of(values: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: values[start:stop]


def _together(name: str, experts: dict[int, Weight], names, family: Architecture, config: dict[str, Any]) -> Planned:
    """The same matrix of every expert, one behind the other along a new first axis."""
    count = config.get("num_experts") or len(experts)
    missing = [number for number in range(count) if number not in experts]
    if missing:
        raise UserError("gguf.experts_missing", tensor=name, count=count, missing=", ".join(map(str, missing[:8])))
    whole = slice(None)
    return Planned(
        _name_of(name, names, family),
        (count, *experts[0].shape),
        lambda start, stop: np.stack([experts[number].rows(whole) for number in range(start, stop)]),
    )


def _stacked(weight: Weight, match: re.Match, names, family: Architecture) -> list[Planned]:
    """Experts that the model stores together: (experts, out, in); gate above up in one matrix."""
    if match[2] == "down_proj":
        parts = {"down_proj": slice(None)}
    else:
        half = weight.shape[1] // 2
        parts = {"gate_proj": slice(0, half), "up_proj": slice(half, None)}

    def rows_of(part: slice) -> Callable[[int, int], np.ndarray]:
        return lambda start, stop: weight.rows(slice(start, stop))[:, part]

    return [
        Planned(
            _name_of(f"{match[1]}.{kind}.weight", names, family),
            (weight.shape[0], len(range(weight.shape[1])[part]), weight.shape[2]),
            rows_of(part),
        )
        for kind, part in parts.items()
    ]


def _is_copy(weights: dict[str, Weight]) -> bool:
    """Whether the output layer is only a copy of the embedding: llama.cpp uses the embedding where there is none."""
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if head is None or embedding is None or head.shape != embedding.shape:
        return False
    step = max(1, CHUNK_BYTES // 4 // head.shape[1])
    parts = [slice(at, at + step) for at in range(0, head.shape[0], step)]
    return all(np.array_equal(head.rows(part), embedding.rows(part)) for part in parts)
