"""The queue on the Train tab: what waits, in which order, and the buttons that move, cancel, pause and go on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.command import as_text
from engine.runs import queue
from engine.runs.folder import Folder, find_folder
from engine.runs.read import UNREADABLE, read_job
from engine.runs.seats import occupant
from engine.words import words
from webui import live
from webui.form import notice, refusal
from webui.frame import FREE, Frame, Panel
from webui.language import escaped

ON_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-queue]');
  if (button && !button.disabled) trigger('select', {act: button.dataset.queue, run: button.dataset.run || ''});
});
"""
NO_DIFFERENCE = ("output_dir", "overwrite_output_dir")
MOST_OPTIONS = 3
"""So many options in which the runs differ are shown under each."""
SIGNS = {"up": "↑", "down": "↓", "cancel": "✕"}


class QueuePanel:
    """Builds the panel here; it shows nothing while nothing waits."""

    def __init__(self, frame: Frame, tab: str) -> None:
        self._frame, self._tab = frame, tab
        self._list = gr.HTML(elem_id="queue", elem_classes="queue-panel", js_on_load=ON_CLICK)
        self._clicks = gr.State(0)

    def connect(self, said: Any) -> None:
        """Args: said: the ``gr.HTML`` in which it is told what was done, or why not."""
        self._frame.panels.append(
            Panel(self._tab, [self._clicks], [self._list], lambda language, clicks: [panel(language)])
        )
        # A changed count has the page look at once; only so is what it shows also what it knows to be shown.
        self._list.select(_on_click, [self._frame.language, self._clicks], [said, self._clicks], **FREE)


def panel(language: str) -> str:
    """All that waits, as HTML; empty when nothing does."""
    line = live.line()
    if not line:
        return ""
    settings = queue.read_settings()
    notes = [words("page.queue.paused", language)] if settings.is_paused else []
    failed = dict.fromkeys(folder.name for each in line if (folder := queue.held_back_by(each, settings)))
    notes += [words("page.queue.held_back", language, name=name) for name in failed]
    going_on = settings.is_paused or failed
    failure = "keeps_going" if settings.keeps_going else "waits_after_failure"
    title, order = (escaped(words(f"page.queue.{key}", language)) for key in ("title", "order"))
    head = [
        f'<h4>{title} <span class="chip queued">{len(line)}</span></h4>',
        _button("resume" if going_on else "pause", language),
        '<button type="button" data-queue="failure"'
        f' title="{escaped(words("page.queue.switch_failure", language))}">'
        f"{escaped(words(f'page.queue.{failure}', language))}</button>",
    ]
    told = "".join(f'<div class="notice warning">{escaped(note)}</div>' for note in notes)
    differing = _differences(line)
    rows = "".join(_row(place, each, differing, len(line), language) for place, each in enumerate(line, start=1))
    return (
        f'<section class="queue" aria-label="{title}"><div class="queue-head">{"".join(head)}</div>{told}'
        f'<ol aria-label="{order}">{rows}</ol></section>'
    )


def _row(place: int, each: queue.Waiting, differing: list[str], count: int, language: str) -> str:
    said = _values(each.folder)
    options = "".join(f"<code>{escaped(name)}: {escaped(said.get(name, '–'))}</code> " for name in differing)
    name = escaped(each.folder.name)
    off = {"up": place == 1, "down": place == count, "cancel": False}
    buttons = "".join(
        f'<button type="button" data-queue="{act}" data-run="{name}"'
        f' aria-label="{escaped(words(f"page.queue.{act}", language, name=each.folder.name))}"'
        f"{' disabled' if off[act] else ''}>{sign}</button>"
        for act, sign in SIGNS.items()
    )
    seats = escaped(", ".join(each.wish.seats))
    return (
        f'<li><b>{place}</b><span><span class="run-name">{name}</span><small>{options}</small></span>'
        f'<span class="seat">{seats}</span>'
        f'<span class="acts">{buttons}</span></li>'
    )


def _differences(line: list[queue.Waiting]) -> list[str]:
    """Names of the first options in which the waiting runs, and those that they wait for, are not the same."""
    sitting = {folder for each in line for seat in each.wish.seats if (folder := occupant(seat))}
    said = [values for folder in (*(each.folder for each in line), *sitting) if (values := _values(folder))]
    names = dict.fromkeys(name for values in said for name in values if name not in NO_DIFFERENCE)
    return [name for name in names if len({values.get(name) for values in said}) > 1][:MOST_OPTIONS]


def _values(folder: Folder) -> dict[str, str]:
    """What was asked of a run, as it is typed; empty when that cannot be read."""
    try:
        return _values_at(folder, folder.job.stat().st_mtime_ns)
    except UNREADABLE:
        return {}


@lru_cache(maxsize=256)
def _values_at(folder: Folder, changed_ns: int) -> dict[str, str]:
    return {name: as_text(value) for name, value in read_job(folder).values().items()}


def _button(act: str, language: str) -> str:
    return f'<button type="button" data-queue="{act}">{escaped(words(f"page.queue.{act}", language))}</button>'


def _on_click(language: str, clicks: int, event: gr.EventData) -> list[Any]:
    """Do what the button says; what another visitor did a moment before is seen, not undone."""
    acts: dict[str, Callable[[], None]] = {
        "pause": queue.pause,
        "resume": queue.resume,
        "failure": lambda: queue.keep_going(not queue.read_settings().keeps_going),
    }
    said = ""
    try:
        if event.act in acts:
            acts[event.act]()
        else:
            said = _do(event.act, find_folder(event.run), language)
    except UserError as error:
        said = refusal(error, language)
    except LookupError:
        said = notice("error", escaped(UserError("run_unknown", name=event.run).text(language)))
    live.forget_list()
    return [said, clicks + 1]


def _do(act: str, folder: Folder, language: str) -> str:
    if act == "cancel":
        queue.cancel(folder)
        return notice("good", escaped(words("page.queue.cancelled", language, name=folder.name)))
    place = queue.place_of(folder)
    queue.move(folder, (place or 1) + (-1 if act == "up" else 1))
    return ""


def queued_notice(folder: Folder, language: str) -> str:
    """What is said after a Start: that the run waits, and as which number; empty when it has begun."""
    place = queue.place_of(folder)
    if place is None:
        return ""
    return notice("good", escaped(words("page.queue.queued", language, name=folder.name, place=place)))
