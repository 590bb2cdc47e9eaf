"""What of an event's answer needs no gradio: it makes every component anew that an event changes, and its settings too.

A form sends a line below every field, to show problems and to take them away; hardly any of them changes. And another
language changes hundreds of words, of which none means anything to the server.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import gradio as gr

SHOWN = frozenset(("label", "info", "placeholder", "visible", "interactive", "open"))
"""Properties that only a browser looks at."""
MESSAGES = (gr.HTML, gr.Button)
"""Components whose value is text and is sent as it is."""


def spared(block: Any, update: Any, lines: dict[int, str]) -> dict[str, Any] | str | None:
    """What the browser is sent, where gradio need not look at it; None: it must.

    Args:
        lines: by number of a component: the line below it that this browser has. What is sent is noted there, whoever
            looks at it.
    """
    has_message = type(block) in MESSAGES
    if isinstance(update, str) and has_message:
        return update
    if not isinstance(update, dict) or update.get("__type__") != "update" or block.stateful:
        return None
    said, line = update.keys() - {"__type__"}, update.get("info")
    if isinstance(line, str):
        is_there = lines.get(block._id, getattr(block, "info", None)) == line
        lines[block._id] = line
        if is_there and said == {"info"}:
            return gr.skip()
    has_text = has_message and isinstance(update.get("value"), str)
    is_shown = said <= _shown(type(block)) | ({"value"} if has_text else set())
    return dict(update) if is_shown and None not in update.values() else None


@cache
def _shown(component: type) -> frozenset[str]:
    """Which of them a kind of component has."""
    return SHOWN & inspect.signature(component.__init__).parameters.keys()
