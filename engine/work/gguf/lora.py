"""A LoRA adapter alone as a .gguf file, which llama.cpp loads beside its base model's (``--lora``).

Its matrices are named and ordered as the weights of the base that they change; ``convert.py`` writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from engine.errors import UserError
from engine.work.adapter_files import Adapter, Update, read_adapter
from engine.work.gguf.architecture import Architecture
from engine.work.gguf.convert import FILE_TYPES, own_card
from engine.work.gguf.tensors import Planned, places, tensor_names


def plan_adapter(folder: Path, family: Architecture, config: dict[str, Any], base: list[Planned]) -> list[Planned]:
    """What the adapter's file will hold: two matrices for each weight that it changes.

    Args:
        family, config: of the base model.
        base: the base model's own tensors in its .gguf file.

    Raises:
        UserError: the adapter does more than add two matrices' product to weights that the base's file has.
    """
    adapter = read_adapter(folder)
    names = tensor_names(family, config)
    known = {tensor.name for tensor in base}
    planned: list[Planned] = []
    for target, update in adapter.updates.items():
        if not (update.lora_a and update.lora_b) or len(update.names()) != 2 or adapter.config.get("fan_in_fan_out"):
            raise UserError("gguf.adapter_not_plain", path=folder, tensor=target)
        lora_a, lora_b = _matrices(adapter, update)
        if update.is_embedding and "output.weight" not in known:
            # llama.cpp (0.3.36 of llama-cpp-python) takes the two turned round for the output layer too, and aborts
            raise UserError("gguf.adapter_not_plain", path=folder, tensor=target)
        for name, order in places(target, len(lora_b), names, family, config):
            if name not in known:
                raise UserError("gguf.adapter_not_plain", path=folder, tensor=target)
            pair = (lora_b, lora_a.T) if update.is_embedding else (lora_a, lora_b if order is None else lora_b[order])
            for end, values in zip(("lora_a", "lora_b"), pair, strict=True):
                values = np.ascontiguousarray(values)
                planned.append(Planned(f"{name}.{end}", values.shape, _rows_of(values)))
    return planned


def adapter_description(family: Architecture, folder: Path, base: Path) -> Callable:
    """What ``convert.write`` calls to describe the file: which adapter, of which base, and its alpha."""
    alpha = float(read_adapter(folder).config["lora_alpha"])

    def describe(writer: gguf.GGUFWriter, outtype: str) -> None:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        writer.add_name(folder.resolve().name)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base.resolve().name)
        writer.add_file_type(FILE_TYPES[outtype])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        if text := own_card(folder):
            writer.add_string("lathe.card", text)

    return describe


def _matrices(adapter: Adapter, update: Update) -> tuple[np.ndarray, np.ndarray]:
    """A (r, in) and B (out, r) in float32, so that llama.cpp's ``alpha / r`` times their product is the update.

    llama.cpp knows one alpha for all: what rank-stabilised LoRA or a pattern of alphas makes of it goes into B.
    """
    parts = adapter.parts(update)
    lora_a, lora_b = (parts[role].float().numpy() for role in ("lora_a", "lora_b"))
    factor = update.scaling * len(lora_a) / adapter.config["lora_alpha"]
    return lora_a, lora_b if factor == 1 else lora_b * np.float32(factor)


def _rows_of(values: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: values[start:stop]
