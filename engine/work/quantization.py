"""How a base model is held in 4 or 8 bits: bitsandbytes through transformers. What is trained is not known here."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from engine.errors import UserError
from engine.options.model import Quantization


def quantized_loading(job: Any, dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for the quantization that a job asks for; none where it asks for none.

    Every linear layer but the output layer is quantized while it is read. Products are computed in ``dtype``.

    Raises:
        UserError: bitsandbytes is missing or broken here.
    """
    if not isinstance(job, Quantization) or job.quantization_bit is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError("quantization_missing", detail=error) from error
    # It would say of every product that its inputs are cast to float16 (0.50).
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    from transformers import BitsAndBytesConfig
    from transformers.integrations import is_fsdp_enabled

    if job.quantization_bit == "8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=job.quantization_type,
            bnb_4bit_use_double_quant=job.double_quantization,
            bnb_4bit_compute_dtype=dtype,
            # FSDP shares out only weights of one type; elsewhere bytes are bytes, and never look like a NaN.
            bnb_4bit_quant_storage=dtype if is_fsdp_enabled() else torch.uint8,
        )
    return {"quantization_config": config, "device_map": job.quantization_device_map or {"": device}}


def is_quantized(model: Any) -> bool:
    """Whether the weights are no plain numbers, so that nothing can be added to them without loss."""
    return getattr(model, "quantization_method", None) is not None


def count_numbers(parameter: torch.nn.Parameter) -> int:
    """How many weights a parameter holds, however many of them share a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)
