"""The charts of a run with what a visitor does with them: a window, the loss by powers of ten, zoom, files to take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from engine.runs.curves import write_csv
from engine.runs.folder import Folder
from engine.runs.plot import save_charts
from engine.runs.progress import Progress, watch
from engine.words import words
from webui import live
from webui.curve import Window, curves
from webui.form import notice
from webui.frame import FREE, Frame, Panel
from webui.language import escaped

WINDOWS = ("all", "1000", "100")
ZOOM = """
const area = (event) => event.target.closest?.('.area');
const share = (box, event) => {
  const seen = box.getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - seen.left) / seen.width));
};
const steps = (figure, from, to) => {
  const [first, last] = [Number(figure.dataset.first), Number(figure.dataset.last)];
  return {first: first + from * (last - first), last: first + to * (last - first)};
};
const charts = () => [...element.querySelectorAll('figure.chart')];
let drag = null, focused = -1;
element.addEventListener('pointerdown', (event) => {
  const box = area(event);
  if (!box || event.button) return;
  const figure = box.closest('figure');
  drag = {number: charts().indexOf(figure), from: share(box, event), x: event.clientX, ...figure.dataset};
});
element.addEventListener('pointermove', (event) => {
  const box = drag && charts()[drag.number]?.querySelector('.area');
  if (!box) return;
  let mark = box.querySelector('.zoom-mark');
  if (!mark) { mark = document.createElement('div'); mark.className = 'zoom-mark'; box.append(mark); }
  const to = share(box, event);
  mark.style.left = `${100 * Math.min(drag.from, to)}%`;
  mark.style.width = `${100 * Math.abs(to - drag.from)}%`;
});
const end = (event) => {
  const begun = drag, box = begun && charts()[begun.number]?.querySelector('.area');
  drag = null;
  element.querySelectorAll('.zoom-mark').forEach((mark) => mark.remove());
  if (!box || event.type !== 'pointerup' || Math.abs(event.clientX - begun.x) < 6) return;
  const ends = [begun.from, share(box, event)].sort((a, b) => a - b);
  trigger('select', steps({dataset: begun}, ...ends));  // of the chart as it was when the drag began
};
window.addEventListener('pointerup', end);
window.addEventListener('pointercancel', end);
element.addEventListener('dblclick', (event) => { if (area(event)) trigger('select', {first: null, last: null}); });
element.addEventListener('keydown', (event) => {
  const figure = event.target.closest?.('figure.chart');
  const ends = {'+': [.25, .75], '=': [.25, .75], '-': [-.5, 1.5], ArrowLeft: [-.25, .75], ArrowRight: [.25, 1.25]};
  if (!figure || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '0' || event.key === 'Escape') trigger('select', {first: null, last: null});
  else if (ends[event.key]) trigger('select', steps(figure, ...ends[event.key]));
  else return;
  event.preventDefault();
});
element.addEventListener('focusin', (event) => { focused = charts().indexOf(event.target.closest('figure.chart')); });
element.addEventListener('focusout', (event) => { if (event.relatedTarget) focused = -1; });
new MutationObserver(() => {
  if (focused >= 0 && document.activeElement === document.body) charts()[focused]?.querySelector('.plot')?.focus();
}).observe(element, {childList: true, subtree: true});
"""
"""Drag over a chart: zoom; double click, 0 or Escape: all; +, - and arrows: the same from the keyboard, whose place a
chart that is drawn anew gets back."""
TAKE = """
() => setTimeout(() => {
  const made = document.querySelector('#%s');
  (made?.matches('a, button') ? made : made?.querySelector('a, button'))?.click();
}, 300)
"""


class CurveView:
    """Builds charts and controls here; which run they show is said by ``connect``."""

    def __init__(self, frame: Frame, name: str) -> None:
        """Args: name: of the place, the beginning of each ``elem_id``."""
        self._frame, self._name = frame, name
        make = frame.texts.make
        with gr.Column(visible=False, elem_classes="curve-controls") as self._controls:
            with gr.Row(elem_classes="buttons"):
                self._window = make(
                    gr.Radio, {"label": "page.curves.window", "choices": _windows}, value=WINDOWS[0],
                    elem_id=f"{name}-curve-window", elem_classes="curve-window",
                )  # fmt: skip
                self._log = make(
                    gr.Checkbox, {"label": "page.curves.log_scale"}, value=False, elem_id=f"{name}-curve-log"
                )
                self._back, self._csv, self._png = (
                    make(
                        gr.Button, {"value": f"page.curves.{act}"}, size="sm", elem_id=f"{name}-curve-{act}",
                        min_width=60, interactive=act != "back",
                    )
                    for act in ("back", "csv", "png")
                )  # fmt: skip
            self._file = make(
                gr.DownloadButton, {"label": "page.curves.csv"}, elem_id=f"{name}-curve-file",
                elem_classes="out-of-sight",
            )  # fmt: skip
        self._charts = gr.HTML(elem_id=f"{name}-curve", js_on_load=ZOOM)
        self._zoom = gr.State({})

    def connect(self, tab: str, chosen: Any, run_of: Callable[[str | None], Folder | None], said: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run; run_of: which run that is; said: for messages."""
        language = self._frame.language

        def watched(language: str, name: str | None, window: str, is_log: bool, zoom: dict[str, Any]) -> list[Any]:
            folder = run_of(name)
            progress = live.look(folder)
            if folder is None or progress is None or progress.kind != "train":
                return ["", gr.update(visible=False), gr.update(interactive=False)]
            limits = zoom if zoom.get("run") == folder.name else {}
            drawn = curves(progress.curves, language, _limits(progress, window, is_log, limits))
            drawn = _reading(progress, language) + drawn
            return [drawn, gr.update(visible=bool(progress.curves)), gr.update(interactive=bool(limits))]

        def zoomed(name: str | None, event: gr.EventData) -> dict[str, Any]:
            folder = run_of(name)
            if folder is None or event.first is None:
                return {}
            return {"run": folder.name, "first": float(event.first), "last": float(event.last)}

        def taken(ending: str) -> Callable[[str, str | None], list[Any]]:
            return lambda language, name: _file(run_of(name), ending, language)

        inputs = [chosen, self._window, self._log, self._zoom]
        self._frame.panels.append(Panel(tab, inputs, [self._charts, self._controls, self._back], watched))
        self._charts.select(zoomed, chosen, self._zoom, trigger_mode="always_last", **FREE)
        gr.on([self._back.click, self._window.input], lambda: {}, None, self._zoom, **FREE)
        for button, ending in ((self._csv, "csv"), (self._png, "png")):
            button.click(
                taken(ending), [language, chosen], [self._file, said], trigger_mode="once", **FREE
            ).success(None, js=TAKE % f"{self._name}-curve-file")  # fmt: skip


def _windows(language: str) -> list[tuple[str, str]]:
    last = [(words("page.curves.last", language, count=f"{int(each):,}"), each) for each in WINDOWS[1:]]
    return [(words("page.curves.all", language), WINDOWS[0]), *last]


def _limits(progress: Progress, window: str, is_log: bool, zoom: dict[str, Any]) -> Window:
    """A zoom, else the last so many steps, else all."""
    if zoom:
        return Window(zoom["first"], zoom["last"], is_log)
    if window == WINDOWS[0] or not progress.curves:
        return Window(is_log=is_log)
    latest = max(curve.last[0] for curve in progress.curves.values() if curve.last)
    return Window(latest - int(window) + 1, None, is_log)


def _reading(progress: Progress, language: str) -> str:
    """How much of a long log is read so far, while the curves above it still grow."""
    if progress.is_read:
        return ""
    said = words("page.reading", language, share=f"{100 * progress.share_read:.0f}")
    return f'<p class="reading">{escaped(said)}</p>'


def _file(folder: Folder | None, ending: str, language: str) -> list[Any]:
    """All points or all charts, in a file with the name of the run."""
    progress = watch(folder) if live.look(folder) else None
    if folder is None or progress is None or not progress.curves:
        return [None, notice("error", escaped(words("page.curve.empty", language)))]
    path = Path(tempfile.mkdtemp(prefix="lathe-curves-")) / f"{folder.name.replace('/', '_')}.{ending}"
    if ending == "csv":
        write_csv(progress.curves, path)
    else:
        save_charts(progress.curves, path, language)
    return [str(path), ""]
