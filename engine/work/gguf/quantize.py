"""Types that llama.cpp makes: it rewrites a .gguf file in a smaller one. llama-cpp-python is optional."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError


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


def quantize(
    source: Path, target: Path, outtype: str, importance: dict[str, np.ndarray] | None = None, **settings: Any
) -> None:
    """Write ``source``, a .gguf of whole floats, to ``target`` in a smaller type.

    Where a row cannot be divided into blocks of 256, llama.cpp itself takes a larger type for that tensor.

    Args:
        importance: how much each column of a tensor matters, by the tensor's name (see ``imatrix.py``).
        **settings: further fields of llama.cpp's ``llama_model_quantize_params``.

    Raises:
        UserError: llama.cpp is missing or refused; the free space is part of the message, for it is the usual cause.
    """
    llama_cpp = import_llama_cpp()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{outtype.upper()}")
    options.nthread = os.cpu_count() or 1
    for setting, value in settings.items():
        setattr(options, setting, value)
    with _importance_of(llama_cpp, importance or {}) as entries:
        if entries is not None:
            options.imatrix = entries
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), options)
    if code != 0:
        free_gb = shutil.disk_usage(target.parent).free / 1e9
        raise UserError("gguf.quantize_failed", outtype=outtype, code=code, free=f"{free_gb:.1f}")


@contextmanager
def _importance_of(llama_cpp, importance: dict[str, np.ndarray]) -> Iterator[Any]:
    """llama.cpp's C array of them, ended by one without a name, as long as the numbers it points to are held here."""
    if not importance:
        yield None
        return
    import ctypes

    held = {name: np.ascontiguousarray(values, np.float32) for name, values in importance.items()}
    entries = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(held) + 1))()
    for entry, (name, values) in zip(entries, held.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    yield entries
