"""How a worker loads its libraries: soon, and without what its job does not use. It knows nothing of the job itself.

What is done to other libraries here saves time alone: where they have changed, it is left undone.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.work.later import compiler_later, hide_groups


@contextmanager
def lean_imports(is_alone: bool = True) -> Iterator[None]:
    """For the import statement that is the first to load transformers, and torch and peft with it.

    Args:
        is_alone: this process will never be one of several that do one job.
    """
    if "transformers" in sys.modules:
        yield
        return
    with uncollected():
        compiler_later()
        if is_alone:
            hide_groups()
        with without_bitsandbytes(), _models_listed_once():
            yield


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports of much: nobody looks for garbage meanwhile. What modules are made of stays, and to go through all
    of it again and again takes a fifth of the time. It is not gone through later on either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load_libraries() -> None:
    """Load what computes a model, with and without adapters, where that has not been done yet."""
    with lean_imports():
        for name in ("transformers.modeling_utils", "peft", "engine.work.load"):
            importlib.import_module(name)


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let bitsandbytes look as if it were not installed, unless it is loaded already. Also a decorator.

    peft 0.21 loads it when it is loaded itself, and again whenever it puts adapters beside a model, to ask of each
    layer whether it is one of its kind; that takes nearly a second, and torch's compiler comes with it. Where a model
    has such layers, it is loaded by then. Can go when peft looks at the model first.

    What peft has found out is forgotten before and after; transformers asks only when a model is to be quantized.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # then ``import`` raises ModuleNotFoundError, and ``find_spec`` finds nothing
    _ask_anew()
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        _ask_anew()


def _ask_anew() -> None:
    peft = sys.modules.get("peft.import_utils")
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        getattr(getattr(peft, name, None), "cache_clear", bool)()


@contextmanager
def _models_listed_once() -> Iterator[None]:
    """Load transformers, and let ``transformers.models`` use what that has read of the files of all models.

    transformers 5.23 reads these 1,700 files twice, because it remembers 128 folders of more than 500. Can go when it
    remembers all of them.
    """
    import transformers
    from transformers.utils import import_utils

    folder = Path(transformers.__file__).parent / "models"
    read = getattr(import_utils, "create_import_structure_from_path", None)
    if read is None:
        yield
        return
    found = read(folder)  # the last that it has read, so it is remembered
    import_utils.create_import_structure_from_path = lambda path: found if Path(path).parent == folder else read(path)
    try:
        yield
    finally:
        import_utils.create_import_structure_from_path = read
