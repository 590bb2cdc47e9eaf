"""Writes a model's tensors and metadata into .gguf files, a few rows at a time, so that memory does not grow with it.

It writes to the paths it is given; that these are temporary, and what follows, is the business of ``job.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from engine.errors import UserError
from engine.work.gguf.architecture import Architecture, add_parameters
from engine.work.gguf.tensors import Planned
from engine.work.gguf.vocabulary import add_vocabulary

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    **{each: gguf.LlamaFileType[f"MOSTLY_{each.upper()}"]
       for each in ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")},
}  # fmt: skip
CARD_BYTES = 16_384
"""Of a run card in the metadata; more would be a book."""


def write(paths: dict[str, Path], planned: list[Planned], architecture: str, describe: Callable, recorder) -> None:
    """Write a file of each type, reading every weight once.

    Args:
        paths: by type; what lies there is replaced.
        describe: ``describe(writer, outtype)`` writes the metadata.

    Raises:
        OSError: the disk is full.
        UserError: a value does not fit into float16; the tokenizer cannot be expressed.
        StopRequested: somebody asked the run to stop.
    """
    with ExitStack() as stack:
        writers = {outtype: gguf.GGUFWriter(path, architecture) for outtype, path in paths.items()}
        for outtype, writer in writers.items():
            stack.callback(writer.close)
            _begin(writer, planned, outtype, describe)
        for done, tensor in enumerate(planned):
            recorder.phase("converting", done, len(planned), "tensors")
            for chunk in tensor.chunks():
                for outtype, writer in writers.items():
                    recorder.check_stop()
                    writer.fout[0].write(encode(chunk, tensor.stored_as(outtype), tensor.name).data)
            for outtype, writer in writers.items():
                writer.write_padding(writer.fout[0], tensor.size_bytes(outtype))
        recorder.phase("converting", len(planned), len(planned), "tensors")


def _begin(writer: gguf.GGUFWriter, planned: list[Planned], outtype: str, describe: Callable) -> None:
    """Everything before the first tensor's values."""
    for tensor in planned:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes(outtype), tensor.stored_as(outtype)
        )
    describe(writer, outtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    writer.write_padding(file, file.tell())


def model_description(family: Architecture, config: dict[str, Any], tokenizer, folder: Path) -> Callable:
    """What ``write`` calls to describe a whole model: what it is, its numbers, its words."""

    def describe(writer: gguf.GGUFWriter, outtype: str) -> None:
        _add_general(writer, folder)
        add_parameters(writer, family, config)
        writer.add_file_type(FILE_TYPES[outtype])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_vocabulary(writer, tokenizer, folder, config["vocab_size"])

    return describe


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


def _add_general(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Name, licence, languages and so on, from the model card and the folder's name as gguf reads them.

    Where Lathe made the model, its card goes along whole: which data, which options, which base.
    """
    total, shared, expert, experts = writer.get_total_parameter_count()
    metadata = gguf.Metadata.load(None, folder, None, total)
    metadata.name = metadata.name or folder.name
    metadata.size_label = metadata.size_label or gguf.size_label(total, shared, expert, experts)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
    if text := own_card(folder):
        writer.add_string("lathe.card", text)


def own_card(folder: Path) -> str:
    """The run card or model card that Lathe wrote beside a model, without its front matter; "" if there is none."""
    for path in (folder / "RUN.md", folder / "README.md"):
        if path.is_file():
            text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
            if path.name == "RUN.md" or "by Lathe" in text:
                return text.strip().encode()[:CARD_BYTES].decode(errors="ignore")
    return ""
