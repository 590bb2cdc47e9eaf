"""The table of runs: narrowed down by words and status, sorted by a click on a head, at first only the first of many.

What it looks like is each visitor's own; which runs there are is looked up once a second for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from engine.runs.folder import Folder
from engine.runs.listing import Listed, filtered, ordered
from engine.runs.times import clock
from engine.words import words
from webui import live
from webui.empty import nothing_yet
from webui.frame import FREE, Frame, Panel
from webui.language import escaped

COLUMNS = (
    "name", "status", "kind", "model", "method", "datasets", "progress", "loss", "best_eval_loss", "started",
    "duration", "size_bytes",
)  # fmt: skip
GREATEST_FIRST = ("started", "duration", "progress", "size_bytes")
"""What one looks for the most of: the first click on its head sorts it so."""
STATUSES = ("running", "queued", "done", "stopped", "failed", "lost")
ALSO = {"running": ("starting", "stopping")}
"""What a visitor means, too, who asks for runs of a status."""
STEP = 50
"""So many rows are shown, and so many more with each click on the button below them."""
FIRST = {"column": "started", "is_reversed": True, "rows": STEP}
ON_CLICK = """
let top = 0, left = 0, held = null;
const named = (found) => ['sort', 'more', 'run'].map((name) => [name, found?.dataset[name]]).find((each) => each[1]);
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-sort], [data-more]'), row = event.target.closest('[data-run]');
  if (event.target.closest('.tick')) {
    if (event.target.matches('input')) trigger('select', {ticked: row.dataset.run, is_ticked: event.target.checked});
  } else if (button?.dataset.sort) trigger('select', {sort: button.dataset.sort});
  else if (button) trigger('select', {more: true});
  else if (row) trigger('select', {run: row.dataset.run});
});
element.addEventListener('scroll', ({target}) => { [top, left] = [target.scrollTop, target.scrollLeft]; }, true);
element.addEventListener('focusin', (event) => {
  const place = named(event.target.closest('[data-sort], [data-more], [data-run]'));
  held = place && [...place, event.target.matches('.tick input')];
});
element.addEventListener('focusout', (event) => { if (event.relatedTarget) held = null; });
new MutationObserver(() => {
  const box = element.querySelector('.scroller');
  if (box && (top || left) && !box.scrollTop && !box.scrollLeft) box.scrollTo(left, top);
  if (!held || document.activeElement !== document.body) return;
  const place = element.querySelector(`[data-${held[0]}="${CSS.escape(held[1])}"]`);
  const isTick = held[2] && place?.querySelector('.tick input');
  (place?.matches('button') ? place : isTick || place?.querySelector('button'))?.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true});
"""
"""A table that is drawn anew, as a running one is all the time, keeps its place and the keyboard's."""


class RunTable:
    """Builds filter and table here; the run that is chosen in it is told to ``connect``'s ``chosen``."""

    def __init__(self, frame: Frame, kinds: tuple[str, ...]) -> None:
        self._frame, self._kinds = frame, kinds
        make = frame.texts.make
        with gr.Row(elem_classes="runs-filter"):
            self._text = make(
                gr.Textbox, {"label": "page.runs.filter", "placeholder": "page.runs.filter_hint"}, max_lines=1,
                elem_id="runs-filter", min_width=180,
            )  # fmt: skip
            self._statuses = make(
                gr.Dropdown, {"label": "page.runs.status", "choices": _named("status", STATUSES)}, multiselect=True,
                elem_id="runs-statuses", filterable=False, min_width=150,
            )  # fmt: skip
            self._of_kinds = make(
                gr.Dropdown, {"label": "page.runs.kind", "choices": _named("kinds", kinds)}, multiselect=True,
                elem_id="runs-kinds", filterable=False, min_width=150,
            )  # fmt: skip
        self._table = gr.HTML(elem_id="runs-table", elem_classes="runs-table", js_on_load=ON_CLICK)
        self._view = gr.State(FIRST)

    def connect(self, chosen: Any, compared: Any, said: Any) -> None:
        """Connect with what a click changes.

        Args:
            chosen: the ``gr.State`` with the name of the run.
            compared: the drop-down with the names of the runs that are laid over each other.
            said: cleared when another run is chosen.
        """
        inputs = [chosen, compared, self._view, self._text, self._statuses, self._of_kinds]
        self._frame.panels.append(Panel("runs", inputs, [self._table], self._watched))
        self._table.select(
            _clicked, [self._view, compared], [chosen, compared, said, self._view], **FREE
        )  # fmt: skip

    def _watched(
        self, language: str, chosen: str | None, compared: Sequence[str] | None, view: dict[str, Any], text: str | None,
        statuses: Sequence[str] | None, kinds: Sequence[str] | None,
    ) -> list[Any]:  # fmt: skip
        everything = live.listing(*self._kinds)
        meant = [each for status in statuses or () for each in (status, *ALSO.get(status, ()))]
        rows = filtered(everything, text or "", meant, kinds or ())
        if (view["column"], view["is_reversed"]) != ("started", True):
            rows = ordered(rows, view["column"], view["is_reversed"])
        folder = live.chosen_run(chosen, *self._kinds)
        return [table(rows, len(everything), view, folder, compared or (), language)]


def table(
    rows: Sequence[Listed], count: int, view: dict[str, Any], chosen: Folder | None, compared: Sequence[str],
    language: str,
) -> str:  # fmt: skip
    """The first rows as HTML.

    Args:
        count: of all runs, also those that were filtered out.
        view: "column" and "is_reversed" of the order, and how many "rows" are shown.
        compared: names of the runs that are ticked.
    """
    if not count:
        return f'<div class="empty none-yet">{nothing_yet("page.runs.none_yet", language, "train")}</div>'
    if not rows:
        return f'<div class="empty">{escaped(words("page.runs.none_match", language, count=count))}</div>'
    compare = escaped(words("page.runs.compare", language))
    head = f'<th scope="col" class="tick"><span class="unseen">{compare}</span></th>'
    head += "".join(_head(column, view, language) for column in COLUMNS)
    shown = rows[: view["rows"]]
    body = "".join(_row(each, chosen, each.name in compared, language) for each in shown)
    notes = [words("cli.run_list.count", language, shown=len(rows), all=count)] if len(rows) < count else []
    more = ""
    if len(shown) < len(rows):
        left = min(STEP, len(rows) - len(shown))
        more = f'<button type="button" data-more="1">{escaped(words("page.runs.more", language, count=left))}</button>'
        notes.append(words("page.runs.shown", language, count=len(shown)))
    below = f'<div class="runs-below">{more}<span>{escaped(" · ".join(notes))}</span></div>' if notes else ""
    return f'<div class="scroller"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{below}'


def _head(column: str, view: dict[str, Any], language: str) -> str:
    name = escaped(words(f"page.runs.{column}", language))
    order, sign = "none", ""
    if view["column"] == column:
        order = "descending" if view["is_reversed"] else "ascending"
        sign = f'<i aria-hidden="true">{"↓" if view["is_reversed"] else "↑"}</i>'
    return (
        f'<th scope="col" class="{column}" aria-sort="{order}">'
        f'<button type="button" data-sort="{column}">{name}{sign}</button></th>'
    )


def _row(row: Listed, chosen: Folder | None, is_ticked: bool, language: str) -> str:
    is_chosen = chosen is not None and row.folder.path == chosen.path
    name = escaped(row.name)
    cells = {
        "name": f'<button type="button" aria-pressed="{str(is_chosen).lower()}">{live.named(row.folder)}</button>',
        "status": f'<span class="chip {row.status}">{escaped(words(f"page.status.{row.status}", language))}</span>',
        "kind": escaped(words(f"page.kinds.{row.kind}", language)),
        "model": live.breakable(row.model or "–"),
        "method": escaped(row.method or "–"),
        "datasets": escaped(", ".join(row.datasets) or "–"),
        "progress": _progress(row),
        "loss": _number(row.loss),
        "best_eval_loss": _number(row.best_eval_loss),
        "started": escaped(live.moment(row.started)),
        "duration": _duration(row),
        "size_bytes": escaped(live.size(row.size_bytes)),
    }
    drawn = "".join(f'<td class="{column}">{cells[column]}</td>' for column in COLUMNS)
    tick = ""
    if row.kind == "train":
        label = escaped(words("page.runs.compare_with", language, name=row.name))
        tick = f'<input type="checkbox" aria-label="{label}"{" checked" if is_ticked else ""}>'
    mark = " class=chosen" if is_chosen else ""
    return f'<tr data-run="{name}"{mark}><td class="tick">{tick}</td>{drawn}</tr>'


def _progress(row: Listed) -> str:
    """Of what is at work by its phase, too; that costs a look at its events."""
    if row.status in ("starting", "running", "stopping"):
        progress = live.look(row.folder)
        share = live.percent(progress) if progress else None
    else:
        share = 100.0 if row.status == "done" else 100 * row.progress if row.progress is not None else None
    return f"{share:.0f} %" if share is not None else "–"


def _duration(row: Listed) -> str:
    if row.duration is None and row.status in ("running", "stopping") and row.started:
        return clock(time.time() - row.started)
    return clock(row.duration) if row.duration is not None else "–"


def _number(value: float | None) -> str:
    return f"{value:.4g}" if value is not None else "–"


def _named(group: str, names: Sequence[str]) -> Callable[[str], list[tuple[str, str]]]:
    return lambda language: [(words(f"page.{group}.{name}", language), name) for name in names]


def _clicked(view: dict[str, Any], compared: list[str] | None, event: gr.EventData) -> list[Any]:
    """Choose or tick a run, sort by a column (the other way round if it is sorted so already), or show more rows."""
    skipped = [gr.skip()] * 3
    if ticked := getattr(event, "ticked", None):
        others = [name for name in compared or () if name != ticked]
        return [gr.skip(), [*others, ticked] if event.is_ticked else others, gr.skip(), gr.skip()]
    if run := getattr(event, "run", None):
        return [run, gr.skip(), "", gr.skip()]
    column = getattr(event, "sort", None)
    if column not in COLUMNS:
        return [*skipped, {**view, "rows": view["rows"] + STEP}]
    is_reversed = not view["is_reversed"] if view["column"] == column else column in GREATEST_FIRST
    return [*skipped, {"column": column, "is_reversed": is_reversed, "rows": STEP}]
