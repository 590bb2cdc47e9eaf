"""Several trainings over one another on the Runs tab: their charts, what came out, and the options that differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs.charts import AXES
from engine.runs.compare import FEWEST, MOST, Run, compared
from engine.runs.curves import write_csv
from engine.runs.folder import SAVES, Folder
from engine.runs.listing import listed
from engine.runs.overlay import columns, overlays
from engine.runs.plot import save_overlays
from engine.runs.progress import glance
from engine.words import words
from webui import live
from webui.compare_tables import legend, tables
from webui.curve import Window, charts
from webui.curve_view import TAKE, ZOOM
from webui.form import notice, refusal
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped

NOWHERE = Folder(SAVES / ".nowhere")


class CompareView:
    """Builds the folded panel here. ``chosen`` holds the names of the runs; whoever sets it opens the panel."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        make = frame.texts.make
        with make(gr.Accordion, {"label": "page.compare.title"}, open=False, elem_id="runs-compare-box") as self._box:
            self.chosen = make(
                gr.Dropdown, {"label": "page.compare.chosen", "info": lambda language: words(
                    "page.compare.chosen_help", language, most=MOST
                )}, choices=[], value=[], multiselect=True, allow_custom_value=True, max_choices=MOST,
                elem_id="runs-compare",
            )  # fmt: skip
            with gr.Column(visible=False, elem_classes="curve-controls") as self._controls:
                self._build_controls()
            self._file = make(
                gr.DownloadButton, {"label": "page.curves.csv"}, elem_id="compare-file", elem_classes="out-of-sight"
            )
            self._charts = gr.HTML(elem_id="compare-curve", js_on_load=ZOOM)
            self._tables = gr.HTML(elem_id="compare-tables", js_on_load=None)
        self._is_open, self._zoom = gr.State(False), gr.State({})

    def _build_controls(self) -> None:
        make = self._frame.texts.make
        with gr.Row(elem_classes="buttons"):
            self._axis = make(
                gr.Radio, {"label": "page.compare.axes.label", "choices": _axes}, value=AXES[0], elem_id="compare-axis",
                elem_classes="curve-window",
            )  # fmt: skip
            self._smoothed = make(
                gr.Checkbox, {"label": "page.compare.smoothed"}, value=True, elem_id="compare-smoothed"
            )
            self._log = make(gr.Checkbox, {"label": "page.curves.log_scale"}, value=False, elem_id="compare-log")
            self._back, self._csv, self._png = (
                make(
                    gr.Button, {"value": f"page.curves.{act}"}, size="sm", elem_id=f"compare-{act}", min_width=60,
                    interactive=act != "back",
                )
                for act in ("back", "csv", "png")
            )  # fmt: skip

    def connect(self, tab: str, said: Any) -> None:
        """Args: said: the ``gr.HTML`` for messages."""
        language = self._frame.language
        inputs = [self._is_open, self.chosen, self._axis, self._smoothed, self._log, self._zoom]
        outputs = [self._charts, self._tables, self._controls, self._back]
        self._frame.panels.append(Panel(tab, inputs, outputs, _watched))
        self._box.expand(lambda: True, None, self._is_open, **FREE)
        self._box.collapse(lambda: False, None, self._is_open, **FREE)
        self.chosen.change(_opened, self.chosen, [self._box, self._is_open], **FREE)
        self.chosen.focus(lambda: gr.update(choices=run_choices()), None, self.chosen, **QUICK)
        self._charts.select(_zoomed, self._axis, self._zoom, trigger_mode="always_last", **FREE)
        gr.on([self._back.click, self._axis.input], lambda: {}, None, self._zoom, **FREE)
        for button, ending in ((self._csv, "csv"), (self._png, "png")):
            button.click(
                _taker(ending), [language, self.chosen, self._axis, self._smoothed], [self._file, said],
                trigger_mode="once", **FREE,
            ).success(None, js=TAKE % "compare-file")  # fmt: skip


def run_choices() -> list[tuple[str, str]]:
    """Every training: its name with time and last loss → its name."""
    return [
        (" · ".join((row.name, live.moment(row.started), f"{row.loss:.4g}" if row.loss is not None else "–")), row.name)
        for row in listed("train")
    ]


def _watched(
    language: str, is_open: bool, names: list[str] | None, axis: str, is_smoothed: bool, is_log: bool,
    zoom: dict[str, Any],
) -> list[Any]:  # fmt: skip
    nothing = [gr.update(visible=False), gr.update(interactive=False)]
    if not is_open:
        return ["", "", *nothing]
    if len(names or ()) < FEWEST:
        return ["", f'<div class="empty">{escaped(words("page.compare.choose", language))}</div>', *nothing]
    try:
        runs = compared(_folders(names), glance)
    except UserError as error:
        return ["", _gone(names, (), language) + refusal(error, language), *nothing]
    limits = zoom if zoom.get("axis") == axis else {}
    drawn = charts(
        overlays(runs, language, axis, is_smoothed), language,
        Window(limits.get("first"), limits.get("last"), is_log), has_legends=False,
    )  # fmt: skip
    shown = _gone(names, runs, language) + tables(runs, language)
    return [legend(runs) + drawn, shown, gr.update(visible=True), gr.update(interactive=bool(limits))]


def _folders(names: Sequence[str]) -> list[Folder]:
    """In the same order; for one that is no run, or no longer, a folder that is not there."""
    return [live.exactly(name) or NOWHERE for name in names]


def _gone(names: Sequence[str], runs: Sequence[Run], language: str) -> str:
    """That some of those that were chosen are not there any more."""
    there = {run.place for run in runs}
    gone = [name for place, name in enumerate(names) if place not in there and not _folders([name])[0].state.is_file()]
    if not gone:
        return ""
    return notice("warning", escaped(words("page.compare.gone", language, names=", ".join(gone))))


def _opened(names: list[str] | None) -> list[Any]:
    """Open the panel as soon as there is something to see, wherever the runs were chosen."""
    return [gr.update(open=True), True] if len(names or ()) >= FEWEST else [gr.skip(), gr.skip()]


def _zoomed(axis: str, event: gr.EventData) -> dict[str, Any]:
    return {} if event.first is None else {"axis": axis, "first": float(event.first), "last": float(event.last)}


def _taker(ending: str) -> Callable[..., list[Any]]:
    def taken(language: str, names: list[str] | None, axis: str, is_smoothed: bool) -> list[Any]:
        """All points as they were logged, or all charts as they are seen, in a file."""
        try:
            runs = compared(_folders(names or ()))
        except UserError as error:
            return [None, refusal(error, language)]
        path = Path(tempfile.mkdtemp(prefix="lathe-compare-")) / f"compare.{ending}"
        if ending == "csv":
            write_csv(columns(runs), path)
        else:
            save_overlays(runs, path, language, axis, is_smoothed)
        return [str(path), ""]

    return taken


def _axes(language: str) -> list[tuple[str, str]]:
    return [(words(f"page.compare.axes.{axis}", language), axis) for axis in AXES]
