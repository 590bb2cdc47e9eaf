"""K-quants: llama.cpp rewrites a .gguf file in a smaller type. llama-cpp-python is optional, so it may be missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from engine.errors import UserError

BITS_PER_WEIGHT = {"q6_k": 6.6, "q5_k_m": 5.7, "q5_k_s": 5.6, "q4_k_m": 4.9, "q4_k_s": 4.7, "q3_k_m": 4.0, "q2_k": 3.4}
"""Types that llama.cpp makes, and about how large they are; small models come out larger."""


def import_llama_cpp():
    """The module, whose shared library is loaded with it.

    Raises:
        UserError: it is not installed, or was built for another machine.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise UserError("gguf.llama_cpp_missing") from error
    except (OSError, RuntimeError) as error:  # its library does not load
        raise UserError("gguf.llama_cpp_broken", detail=str(error)) from error
    return llama_cpp


def quantize(source: Path, target: Path, outtype: str, thread_count: int | None = None) -> None:
    """Write ``source``, a .gguf of whole floats, to ``target`` in a smaller type.

    Where a row cannot be divided into blocks of 256, llama.cpp itself takes a larger type for that tensor.

    Raises:
        UserError: llama.cpp is missing or refused; the free space is part of the message, for it is the usual cause.
    """
    llama_cpp = import_llama_cpp()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{outtype.upper()}")
    options.nthread = thread_count or os.cpu_count() or 1
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), options)
    if code != 0:
        free_gb = shutil.disk_usage(target.parent).free / 1e9
        raise UserError("gguf.quantize_failed", outtype=outtype, code=code, free=f"{free_gb:.1f}")
