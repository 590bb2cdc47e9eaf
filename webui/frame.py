"""What the tabs of one page share: words, top bar, and who watches what. Nothing here belongs to one visitor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from webui.language import Texts
from webui.topbar import TopBar

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
"""How every event of the page is declared: no public API endpoint, no veil over what it updates."""

QUICK = {**PRIVATE, "queue": False}
"""An event that answers at once and waits for nobody."""

FREE = {**PRIVATE, "concurrency_limit": None}
"""An event that goes through gradio's queue, as many at once as there are: what streams, and what changes a state that
others follow, such as the open tab. In gradio 6.31 the browser notices only what a queued event has changed."""


@dataclass(frozen=True)
class Panel:
    """What a tab shows of run folders.

    Args:
        tab: id of the tab; a panel is looked at only while its tab is open.
        inputs: components whose values ``render`` takes after the language.
        outputs: components that it fills, in the order of what it returns.
        render: called by a timer; cheap, and without effects.
    """

    tab: str
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    render: Callable[..., list[Any]]


@dataclass
class Frame:
    """A page under construction.

    Args:
        tabs: the ``gr.Tabs``; an event that sends ``gr.Tabs(selected=…)`` to it opens another tab.
        tab: a ``gr.State`` with the id of the open tab.
        panels: filled by each tab; watched by the page.
        notices: messages of the last event on a tab; a switch of the language clears them.
        forms: by the name of its job, each form that is kept, with the box in which its tab says what happened.
    """

    texts: Texts
    top: TopBar
    tabs: Any
    tab: Any
    panels: list[Panel] = field(default_factory=list)
    notices: list[Any] = field(default_factory=list)
    forms: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def language(self) -> Any:
        return self.top.language

    @property
    def spoken(self) -> Any:
        return self.top.spoken


class Seen:
    """What a browser shows of each panel. Its looks wait for one another: what is kept is what was sent last, however
    many ticks and clicks ask at once.

    Yet answers that are under way at once may overtake one another, or be lost. So each that brings something is
    numbered, and each look tells the number that has come last. A look that does not know of the last one leaves in
    doubt what the browser shows. As soon as the last has come, everything is sent once more, and at the look after that
    again, for one that is later still.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[int, list[str]] = {}
        self._sent, self._doubts = 0, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        return Seen()  # gradio gives each browser a copy of its own

    def news(
        self, received: int | None, renders: dict[int, Callable[[], list[Any]]]
    ) -> tuple[dict[int, list[Any]], Any]:
        """What panels show, with ``gr.skip()`` for what the browser shows already; and the number of the answer.

        Args:
            received: the number that the browser got last; 0: none yet.
            renders: by number of a panel: what it shows now.
        """
        with self._lock:
            is_behind = received != self._sent
            if self._doubts and not is_behind:
                self._shown.clear()
            self._doubts = 2 if is_behind else max(self._doubts - 1, 0)
            try:
                found = {number: self._changed(number, render()) for number, render in renders.items()}
            except BaseException:
                self._shown.clear()  # nothing of this answer will come
                raise
            if not is_behind and all(value == gr.skip() for values in found.values() for value in values):
                return found, gr.skip()
            self._sent += 1
            return found, self._sent

    def _changed(self, number: int, values: list[Any]) -> list[Any]:
        changed, self._shown[number] = changed_only(values, self._shown.get(number))
        return changed


def changed_only(values: list[Any], seen: list[str] | None) -> tuple[list[Any], list[str]]:
    """Replace what a browser already shows by ``gr.skip()``; returns that, and what it shows then."""
    now = [repr(value) for value in values]
    if seen is None or len(seen) != len(now):
        return values, now
    return [gr.skip() if then == new else value for value, then, new in zip(values, seen, now, strict=True)], now
