"""What a viewer may do: watch runs, and chat with the model that is loaded. What is not named here is refused.

Events are named by the function that answers them, without the "webui" before it.
"""

from __future__ import annotations

from typing import Any

from engine.catalog.accounts import OWNER

EVENTS = frozenset((
    # the page itself
    "page.build_page.<locals>.<lambda>", "page._watch_folders.<locals>.staying.<locals>.stay",
    "page._watch_folders.<locals>.arrive",
    "page._speak.<locals>.greet", "page._speak.<locals>.switch", "page._speak.<locals>.follow", "notify._looked",
    "topbar._who",
    "access.banner.Banner._look", "kept.Kept._restore",
    # runs: which one, its curves and its log
    "run_table._clicked", "curve_view.CurveView.connect.<locals>.zoomed",
    "curve_view.CurveView.connect.<locals>.<lambda>",
    "curve_view.CurveView.connect.<locals>.taken.<locals>.<lambda>",
    "log_view.LogView.connect.<locals>.held", "log_view.LogView.connect.<locals>.<lambda>",
    "compare.CompareView.connect.<locals>.<lambda>", "compare._opened", "compare._zoomed",
    "compare._taker.<locals>.taken", "predictions_view._clicked",
    "predictions_view.PredictionsView.connect.<locals>.<lambda>",
    # the chat, with what is loaded
    "chat_room._take", "chat_room._take_again", "chat_room._take_changed", "chat_room._take_back",
    "chat_room.ChatRoom._on_question", "chat_room._on_stop", "chat_room._on_clear", "chat_room._on_return",
    "tab_chat.ChatTab.connect.<locals>.<lambda>", "chat_sides._choices", "chat_sides.ChatSides._on_question",
    "chat_sides.stop_answer",
))  # fmt: skip
TABS = frozenset(("train", "runs", "eval", "chat", "export", "gguf"))
"""Whose panels a viewer is shown: all but the one that reads files by a name that is typed."""


def may_see(role: str, tab: str) -> bool:
    """Whether the panels of a tab are shown to somebody of this role."""
    return role == OWNER or tab in TABS


def name_of(event: Any) -> str:
    """An event of gradio by the function that answers it; "" where the browser does."""
    function = event.fn
    if function is None:
        return ""
    return f"{function.__module__.removeprefix('webui.')}.{function.__qualname__}"


def allowed(events: dict[int, Any]) -> frozenset[int]:
    """The numbers of the events that a viewer may set off."""
    return frozenset(number for number, event in events.items() if name_of(event) in EVENTS)
