"""Gradio 6.31 without work that nobody sees: without this, it is more than half of what a start of the page takes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

MOST = 1024
"""Signatures that are kept."""
LOOK_EVERY_S = 0.01
"""Between two looks at gradio's queue: what waits there waits half of that on average."""


class _Later(ModuleType):
    """Stands for a module until something of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        real = importlib.import_module(self.__name__)
        vars(self).update(vars(real))
        return getattr(real, name)


@contextmanager
def _later(name: str) -> Iterator[None]:
    """Who imports the module in the body gets it when he wants something of it; who imports it afterwards, at once."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _without_stubs() -> Iterator[None]:
    """At every import gradio makes type stubs of its classes, to lie beside its own source, in over a second.

    It makes none of a class whose file cannot be found.
    """
    found = inspect.getfile

    def getfile(what: Any) -> str:
        if isinstance(what, type) and what.__module__.startswith("gradio."):
            raise OSError("not looked for")
        return found(what)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = found


class _Inspect(ModuleType):
    """The module, but what a function takes is found out once: gradio asks it of every component made and sent."""

    signature = staticmethod(lru_cache(MOST)(inspect.signature))
    getfullargspec = staticmethod(lru_cache(MOST)(inspect.getfullargspec))

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)


with _without_stubs(), _later("pandas"):  # gradio asks pandas of tables and plots alone, and here are none of its
    import gradio as gr
    from gradio import blocks, blocks_events, component_meta, utils
    from gradio.routes import App

blocks_events.create_or_modify_pyi = component_meta.create_or_modify_pyi = lambda *_: None  # nor of classes made here
blocks.inspect = component_meta.inspect = _Inspect("inspect")


class _OnlyWithPyplot(utils.MatplotlibBackendMananger):
    """Around every event gradio sees to it that pyplot opens no window, and imports it for that, in over a second."""

    def __enter__(self) -> None:
        self._is_there = "matplotlib.pyplot" in sys.modules
        if self._is_there:
            super().__enter__()

    def __exit__(self, *raised: object) -> None:
        if self._is_there:
            super().__exit__(*raised)


utils.MatplotlibBackendMananger = _OnlyWithPyplot


def _kept(make: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """What a browser is told of a component, made once.

    Gradio makes it anew for each of three writings of the page's settings, and for each visitor. An event does not
    change a component, but puts another in its place.
    """
    made: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    def config_for_block(number: int, rendered: list[int], block: Any, renderable: Any = None) -> dict[str, Any]:
        if renderable:
            return make(number, rendered, block, renderable)
        if block not in made:
            made[block] = make(number, rendered, block)
        return {**made[block], "props": dict(made[block]["props"])}

    return config_for_block


blocks.BlocksConfig.config_for_block = staticmethod(_kept(blocks.BlocksConfig.config_for_block))


@contextmanager
def without_an_app() -> Iterator[None]:
    """While a page is declared gradio makes a web app of it twice; the one that is served is made by its launch."""
    make: Callable[..., App] = App.create_app
    App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        App.create_app = staticmethod(make)


def calm(page: gr.Blocks) -> None:
    """Let the queue of a page's events do no more than hand them on.

    Gradio looks a thousand times a second whether one waits: 6 % of a core, day and night. And after each it works out
    statistics of the last 10,000, with pandas, for a dashboard that this page does not have.
    """
    queue = page._queue
    queue.sleep_when_free = LOOK_EVERY_S
    queue.compute_analytics_summary = lambda _: queue.cached_event_analytics_summary
    queue.ANALYTICS_MAX_EVENTS = 1
