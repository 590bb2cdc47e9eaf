"""Writes a model's tensors and metadata into a .gguf file, a few rows at a time, so that memory does not grow with it.

It writes to the path it is given; that this is a temporary one, and what follows, is the business of ``job.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from engine.errors import UserError
from engine.work.gguf.architecture import Architecture, add_parameters, rope_of
from engine.work.gguf.source import Weight
from engine.work.gguf.vocabulary import add_vocabulary

CHUNK_BYTES = 32 * 2**20
"""Of float32 values held at once; quantising needs about four times as much."""

TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
FILE_TYPES = {Type.F32: gguf.LlamaFileType.ALL_F32, Type.F16: gguf.LlamaFileType.MOSTLY_F16,
              Type.BF16: gguf.LlamaFileType.MOSTLY_BF16, Type.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One tensor of the file to be.

    Args:
        name: in the file.
        shape: as numpy has it; the file lists the axes the other way round.
        type: how it is stored.
        rows: ``rows(start, stop)`` gives that part of the first axis as float32.
    """

    name: str
    shape: tuple[int, ...]
    type: Type
    rows: Callable[[int, int], np.ndarray]

    @property
    def size_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * block_bytes

    def chunks(self) -> Iterator[np.ndarray]:
        """All values as float32, in parts of at most ``CHUNK_BYTES`` (or one row)."""
        step = max(1, CHUNK_BYTES // 4 // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))


def plan(weights: dict[str, Weight], family: Architecture, config: dict[str, Any], outtype: Type) -> list[Planned]:
    """What the file will hold, in its order. Nothing is read yet.

    Raises:
        UserError: a tensor is not part of the family's architecture.
    """
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    planned = list(_rope_factors(config))
    for weight in weights.values():
        if weight.name in family.ignore or weight.name.endswith((".rotary_emb.inv_freq", ".attention.masked_bias")):
            continue
        if weight.name == "lm_head.weight" and _is_tied(weights, config):
            continue
        name = names.get_name(weight.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError("gguf.tensor_unknown", tensor=weight.name, architecture=family.architecture)
        planned.append(
            Planned(name, weight.shape, stored_type(name, weight.shape, outtype), _rows(weight, family, config))
        )
    return planned


def stored_type(name: str, shape: tuple[int, ...], outtype: Type) -> Type:
    """How a tensor is stored: vectors and norms in float32, for llama.cpp computes with them in no other type.

    A row that a quantised type cannot divide into its blocks is stored in float16.
    """
    if len(shape) <= 1 or name.endswith("_norm.weight") or not name.endswith(".weight"):
        return Type.F32
    return outtype if shape[-1] % gguf.GGML_QUANT_SIZES[outtype][0] == 0 else Type.F16


def write(
    path: Path,
    planned: list[Planned],
    family: Architecture,
    config: dict[str, Any],
    tokenizer,
    folder: Path,
    outtype: Type,
    recorder,
) -> None:
    """Write the whole file.

    Args:
        path: replaced if it exists.
        tokenizer: see ``vocabulary.add_vocabulary``.
        folder: of the model; its name and model card become the file's general metadata.

    Raises:
        OSError: the disk is full.
        UserError: a value does not fit into float16; the tokenizer cannot be expressed.
        StopRequested: somebody asked the run to stop.
    """
    writer = gguf.GGUFWriter(path, family.architecture)
    for tensor in planned:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, tensor.type)
    _add_general(writer, folder)
    add_parameters(writer, family, config)
    writer.add_file_type(FILE_TYPES[outtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, tokenizer, folder, config["vocab_size"])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
        for done, tensor in enumerate(planned):
            recorder.phase("converting", done, len(planned), "tensors")
            for chunk in tensor.chunks():
                recorder.check_stop()
                file.write(encode(chunk, tensor.type, tensor.name).data)
            writer.write_padding(file, tensor.size_bytes)
        recorder.phase("converting", len(planned), len(planned), "tensors")
    finally:
        writer.close()


def encode(values: np.ndarray, type: Type, name: str) -> np.ndarray:
    """Float32 values as the bytes of a stored type.

    Raises:
        UserError: a value is beyond float16 (65504), where it would silently become infinite.
    """
    if type is Type.F16:
        with np.errstate(over="ignore"):
            stored = values.astype(np.float16)
        if np.isinf(stored).any() and np.isfinite(values).all():
            raise UserError("gguf.too_large_for_f16", tensor=name, value=f"{np.abs(values).max():g}")
    elif type is Type.F32:
        stored = np.ascontiguousarray(values, np.float32)
    else:
        stored = gguf.quants.quantize(values, type)
    return np.ascontiguousarray(stored).reshape(-1).view(np.uint8)


def _rows(weight: Weight, family: Architecture, config: dict[str, Any]) -> Callable[[int, int], np.ndarray]:
    """How a weight is read: as it is, its rows in another order, or with the norm's offset added."""
    if family.norm_offset and weight.name.endswith("norm.weight"):
        return lambda start, stop: weight.rows(start, stop) + np.float32(family.norm_offset)
    match = re.search(r"\.([qk])_proj\.(weight|bias)$", weight.name)
    if family.pair_halves and match:
        heads = config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"]
        order = paired_order(weight.shape[0], heads)
        return lambda start, stop: weight.rows(0, weight.shape[0])[order[start:stop]]
    return weight.rows


def paired_order(rows: int, heads: int) -> np.ndarray:
    """Which row of a q or k projection stands where, once the partners of a rotation are neighbours.

    Hugging Face rotates row i of a head's first half with row i of its second half; here they become 2i and 2i + 1.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def _is_tied(weights: dict[str, Weight], config: dict[str, Any]) -> bool:
    """True if the output layer is only a copy of the embedding: llama.cpp uses the embedding where there is none."""
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if not config.get("tie_word_embeddings") or head is None or embedding is None or head.shape != embedding.shape:
        return False
    step = max(1, CHUNK_BYTES // 4 // head.shape[1])
    starts = range(0, head.shape[0], step)
    return all(np.array_equal(head.rows(at, at + step), embedding.rows(at, at + step)) for at in starts)


def _rope_factors(config: dict[str, Any]) -> Iterator[Planned]:
    """Llama 3's stretched rotation as the tensor that llama.cpp divides each frequency by."""
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        factors = llama3_factors(config["head_size"], rope)
        yield Planned("rope_freqs.weight", factors.shape, Type.F32, lambda start, stop: factors[start:stop])


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


def _add_general(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Name, licence, languages and so on, from the model card and the folder's name as gguf reads them."""
    total, shared, expert, experts = writer.get_total_parameter_count()
    metadata = gguf.Metadata.load(None, folder, None, total)
    metadata.name = metadata.name or folder.name
    metadata.size_label = metadata.size_label or gguf.size_label(total, shared, expert, experts)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
