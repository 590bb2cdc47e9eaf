"""How a worker loads its libraries: soon, and without what its job does not use. It knows nothing of the job itself.

What is written here about other libraries saves time alone: without it the results are the same.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any


@contextmanager
def lean_imports() -> Iterator[None]:
    """For the import statement that is the first to load transformers, and torch and peft with it.

    Meanwhile nobody looks for garbage: what modules are made of stays, and to go through all of it again and again
    takes a fifth of the time. It is not gone through later on either.
    """
    if "transformers" in sys.modules:
        yield
        return
    gc.disable()
    try:
        with _hidden("bitsandbytes"), _models_listed_once():
            yield
    finally:
        gc.freeze()
        gc.enable()


def without_bitsandbytes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates what puts adapters beside a model, its first argument: bitsandbytes is loaded for quantized ones only.

    peft 0.21 loads it for every model, to ask each layer whether it is one of its own; that takes nearly a second, and
    torch's compiler comes with it. Can go when peft looks at the model first.
    """

    @wraps(function)
    def run(model: Any, *given: Any, **named: Any) -> Any:
        from engine.work.quantization import is_quantized  # loads torch

        if is_quantized(model):
            return function(model, *given, **named)
        with _hidden("bitsandbytes"):
            return function(model, *given, **named)

    return run


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a package that is not loaded yet look as if it were not installed.

    What peft has found out is forgotten before and after; transformers asks only when a model is to be quantized.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # then ``import`` raises ModuleNotFoundError, and ``find_spec`` finds nothing
    _ask_anew()
    try:
        yield
    finally:
        del sys.modules[name]
        _ask_anew()


def _ask_anew() -> None:
    if peft := sys.modules.get("peft.import_utils"):
        peft.is_bnb_available.cache_clear()
        peft.is_bnb_4bit_available.cache_clear()


@contextmanager
def _models_listed_once() -> Iterator[None]:
    """Load transformers, and let ``transformers.models`` use what that has read of the files of all models.

    transformers 5.23 reads these 1,700 files twice, because it remembers 128 folders of more than 500. Can go when it
    remembers all of them.
    """
    import transformers
    from transformers.utils import import_utils

    folder = Path(transformers.__file__).parent / "models"
    read = import_utils.create_import_structure_from_path
    found = read(folder)  # the last that it has read, so it is remembered
    import_utils.create_import_structure_from_path = lambda path: found if Path(path).parent == folder else read(path)
    try:
        yield
    finally:
        import_utils.create_import_structure_from_path = read
