"""Parts of torch that transformers loads and a worker may never use: its compiler, and its groups of processes.

Both together take more than half a second and 80 MB. The compiler is loaded as soon as something of it is used; the
groups of processes are as if torch had been built without them, for workers that will never be one of several.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

COMPILER = "torch._dynamo"
ALONE = f"{COMPILER}._trace_wrapped_higher_order_op"
"""The part of it that transformers uses; it needs none of the others."""
MARKS = ("allow_in_graph", "assume_constant_result")
"""What of it only notes something about a function, which it gives back."""

GROUPS_OPTIONAL_SINCE = (5, 15)

_noted: list[Callable[[ModuleType], None]] = []
"""What was asked of it before it was loaded."""
_loading = threading.RLock()


class _Later(ModuleType):
    """The compiler's package before it is loaded. Functions can be marked or kept out of it; all else loads it, in
    place, so that who has imported it holds the real one. Its path too, which is asked for to import a part of it."""

    _is_loading = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)  # as of any module that is asked for what it need not have
        if not self._is_loading:
            if name in MARKS:
                return functools.partial(_marking, name)
            if name == "disable":
                return _disable
        with _loading:  # another thread may be at it
            if type(self) is _Later:
                self._load(name)
        return getattr(self, name)

    def _load(self, name: str) -> None:
        if self._is_loading:  # its own parts have asked, for what is not there yet
            raise AttributeError(f"module {COMPILER!r} has no attribute {name!r} so far")
        self._is_loading = True
        self.__path__ = self.__spec__.submodule_search_locations
        try:
            self.__spec__.loader.exec_module(self)
        finally:
            del self._is_loading
        self.__class__ = ModuleType
        while _noted:
            _noted.pop(0)(self)


def _marking(name: str, function: Callable) -> Callable:
    _noted.append(lambda compiler: getattr(compiler, name)(function))
    return function


def _disable(fn: Any = None, recursive: bool = True, **given: Any) -> Any:
    """The compiler's decorator of this name: a function is kept out of the compiler once there is one."""
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **given)
    if not isinstance(fn, FunctionType):
        return _loaded().disable(fn, recursive, **given)
    chosen = fn

    def choose(compiler: ModuleType) -> None:
        nonlocal chosen
        chosen = compiler.disable(fn, recursive, **given)

    @functools.wraps(fn)
    def called(*args: Any, **options: Any) -> Any:
        return chosen(*args, **options)

    _noted.append(choose)
    return called


def _loaded() -> ModuleType:
    compiler = sys.modules[COMPILER]
    compiler.config  # noqa: B018 (nothing else of it need be there before)
    return compiler


def compiler_later() -> None:
    """Before transformers is loaded: let the compiler be loaded when something of it is used."""
    import torch  # else it would be what loads the compiler's package

    if COMPILER in sys.modules or not (spec := importlib.util.find_spec(COMPILER)):
        return
    package = torch._dynamo = sys.modules[COMPILER] = importlib.util.module_from_spec(spec)
    package.__class__ = _Later
    with suppress(Exception):  # of another torch: then the compiler is loaded with transformers
        importlib.import_module(ALONE)
    if type(package) is not _Later:
        return  # it was needed
    if ALONE in sys.modules:
        del package.__path__
        return
    del torch._dynamo
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{COMPILER}.")]:
        del sys.modules[name]


def hide_groups() -> None:
    """In a process that will never be one of several: torch's ``distributed`` says that it is not there, as where
    torch was built without it. Transformers before 5.15 does not bear that (its issue 47603), and loads it."""
    major, minor = map(int, importlib.metadata.version("transformers").split(".")[:2])
    if (major, minor) >= GROUPS_OPTIONAL_SINCE:
        import torch.distributed

        torch.distributed.is_available = lambda: False
