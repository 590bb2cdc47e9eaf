"""The check of a dataset, row by row in a worker: started, watched, stopped, and found again from its run's folder."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from engine.errors import UserError
from engine.options.jobs import DataJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.read import read_job
from engine.runs.start import start
from engine.runs.stop import ask_to_stop
from engine.words import words
from webui import live
from webui.access.allowed import allowed_entry
from webui.aloud import SPEAKS
from webui.controls import NOTHING
from webui.data_lengths import DataLengths
from webui.data_report import ON_REPORT_CLICK, has_clean_copy, read_report, report, write_clean_copy
from webui.data_rows import DataRows
from webui.data_seen import SETTINGS, settings_job
from webui.dataset_rows import dataset_names
from webui.form import notice, refusal
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped, marked

FURTHER = ("cutoff_len", "hub", "model_revision")
"""Options of the training form that count tokens, beside those that decide what is made of a row."""

_one_start_at_a_time = threading.Lock()


class DataCheck:
    """Two views, the report and the lengths of the dataset that is chosen, and the bar below the tab."""

    def __init__(self, frame: Frame, dataset: Any, folder: Any) -> None:
        self._frame, self._dataset, self._folder = frame, dataset, folder
        self._settings: dict[str, Any] = {}
        self._kind = gr.State(None)

    def build(self) -> None:
        make = self._frame.texts.make
        with gr.Row(elem_classes="toolbar"):
            self._validation = make(
                gr.Dropdown, {"label": "page.data.validation", "info": "page.data.validation_help"},
                choices=_validation_choices("data"), value=NOTHING, allow_custom_value=True, elem_id="data-validation",
            )  # fmt: skip
        self._card = gr.HTML(elem_id="data-status", js_on_load=None)
        self._report = gr.HTML(elem_id="data-report", js_on_load=ON_REPORT_CLICK)
        with gr.Row(elem_classes="buttons", visible=False) as self._take:
            self._rejects = make(gr.DownloadButton, {"label": "page.data.rejects"}, size="sm", elem_id="data-rejects")
            self._clean = make(gr.Button, {"value": "page.data.clean"}, size="sm", elem_id="data-clean")
        with make(gr.Accordion, {"label": "page.log.label"}, open=False):
            self._log = gr.HTML(elem_id="data-log", elem_classes="log-view", js_on_load=None)

    def build_lengths(self) -> None:
        fields = TrainJob.model_fields
        self._lengths = DataLengths(
            self._frame, fields["cutoff_len"].default, fields["per_device_train_batch_size"].default
        )  # fmt: skip

    def build_bar(self) -> None:
        make = self._frame.texts.make
        with gr.Column(elem_classes="action-bar"):
            self._notice = gr.HTML(elem_id="data-notice", js_on_load=SPEAKS)
            with gr.Row(elem_classes="buttons"):
                self.train = make(
                    gr.Button, {"value": "page.data.train"}, variant="primary", elem_id="data-train", min_width=120
                )
                self._start = make(gr.Button, {"value": "page.data.check"}, elem_id="data-start", min_width=120)
                self._stop = make(
                    gr.Button, {"value": "page.buttons.stop"}, elem_id="data-stop", interactive=False, min_width=90
                )

    def connect(self, controls: dict[str, Any], rows: DataRows, views: Any, lists: list[Any]) -> None:
        """Args: controls: the training form's, by option; lists: drop-downs of datasets that learn of a clean copy."""
        self._settings = {name: controls[name] for name in (*SETTINGS, *FURTHER) if name in controls}
        frame, chosen = self._frame, [self._folder, self._dataset]
        outputs = [self._card, self._report, self._take, self._rejects, self._clean, self._log, self._stop]
        frame.panels.append(
            Panel(
                "data", [*chosen, self._kind, *self._lengths.inputs], [*outputs, *self._lengths.outputs], self._watched
            )
        )
        self._start.click(
            self._on_start, [frame.language, *chosen, self._validation, *self._settings.values()],
            [self._notice, views], trigger_mode="once", **FREE,
        )  # fmt: skip
        self._stop.click(_on_stop, [frame.language, *chosen], self._notice, **QUICK)
        self._report.select(_kind_clicked, self._kind, self._kind, **FREE)
        rows.opened_by(self._report.select, views)
        self._lengths.connect(frame, chosen, _lengths_path, controls["cutoff_len"])
        self._clean.click(
            _on_clean, [frame.language, *chosen], [self._notice, self._dataset, *lists], trigger_mode="once",
            **FREE,
        )  # fmt: skip
        self._dataset.change(lambda: None, None, self._kind, **QUICK)
        self._dataset.input(lambda: "", None, self._notice, **QUICK)  # not what is said of a copy that was just made
        self._validation.focus(
            lambda folder: gr.update(choices=_validation_choices(folder)), self._folder, self._validation, **QUICK
        )
        frame.notices.append(self._notice)

    def _watched(self, language: str, folder: str, name: str | None, kind: str | None, *lengths: Any) -> list[Any]:
        latest, done = checks_of(folder, name)
        progress = live.look(latest)
        found = read_report(done)
        empty = marked(words("page.data.no_check", language))
        is_whole = latest == done and found is not None
        shown = "" if is_whole else live.card(latest, progress, language, empty)
        job = _job_of(done)
        told = report(found, done, job, _is_older(done, folder, name), kind, language) if found and job else ""
        rejects = done.rejects if done and done.rejects.is_file() and done.rejects.stat().st_size else None
        can_clean = done is not None and found is not None and has_clean_copy(done, found)
        return [
            shown,
            told,
            gr.update(visible=bool(rejects or can_clean)),
            gr.update(value=str(rejects) if rejects else None, interactive=bool(rejects)),
            gr.update(interactive=can_clean),
            live.log(latest, language),
            gr.update(interactive=live.is_active(progress) and progress.status != "stopping"),
            *self._lengths.values(done.lengths if done else None, language, *lengths),
        ]

    def _on_start(self, language: str, folder: str, name: str | None, validation: str, *raw: Any) -> list[Any]:
        """Check the dataset on the screen, with the training form's model and settings; then watch it."""
        if not name:
            return [notice("warning", escaped(words("page.data.nothing_chosen", language))), gr.skip()]
        with _one_start_at_a_time:
            live.forget_list()
            latest, _ = checks_of(folder, name)
            if live.is_active(live.look(latest)):
                return [notice("warning", escaped(words("page.data.checked_already", language))), gr.skip()]
            try:
                further = {"dataset_dir": folder, "eval_dataset": (validation,) if validation else ()}
                start(settings_job(self._settings, raw, name, **further), language)
            except UserError as error:
                return [refusal(error, language), gr.skip()]
        live.forget_list()
        return ["", gr.Tabs(selected="check")]


def checks_of(folder: str, name: str | None) -> tuple[Folder | None, Folder | None]:
    """The latest check of a dataset, and the latest that is done; they are found by what was asked of them."""
    latest = None
    for run, state in live.runs_of("data") if name else ():
        job = _job_of(run)
        if job and job.dataset == (name,) and Path(job.dataset_dir) == Path(folder or "."):
            latest = latest or run
            if state.status == "done":
                return latest, run
    return latest, None


def _job_of(run: Folder | None) -> DataJob | None:
    """What was asked of a check; None where that can no longer be read."""
    try:
        return _job_at(run, run.job.stat().st_mtime_ns) if run else None
    except (OSError, UserError, yaml.YAMLError, KeyError, TypeError):  # deleted, or of another version
        return None


@lru_cache(maxsize=2048)
def _job_at(run: Folder, changed_ns: int) -> DataJob:
    return read_job(run)


def _is_older(run: Folder | None, folder: str, name: str | None) -> bool:
    """Whether the rows have changed since they were checked."""
    try:
        path = allowed_entry(folder, name or "").path
        return run is not None and path is not None and path.stat().st_mtime > run.job.stat().st_mtime
    except (OSError, UserError):
        return False


def _lengths_path(folder: str, name: str | None) -> Path | None:
    _, done = checks_of(folder, name)
    return done.lengths if done else None


def _kind_clicked(event: gr.EventData, kind: str | None) -> Any:
    """A click on a kind shows the findings of that kind only; a second click all of them again."""
    clicked = getattr(event, "kind", None)
    if not isinstance(clicked, str):
        return gr.skip()
    return None if clicked == kind else clicked


def _on_stop(language: str, folder: str, name: str | None) -> str:
    latest, _ = checks_of(folder, name)
    if latest is None or not live.is_active(live.look(latest)):
        return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
    ask_to_stop(latest)
    return notice("good", escaped(words("page.stopping", language)))


def _on_clean(language: str, folder: str, name: str | None) -> list[Any]:
    """Register the rows that nothing is wrong with under a name of their own, and go on with them."""
    _, done = checks_of(folder, name)
    if done is None or not name:
        return [gr.skip()] * 4
    try:
        clean, rows = write_clean_copy(done, folder, name)
    except UserError as error:
        return [notice("error", marked(error.text(language))), *[gr.skip()] * 3]
    names = dataset_names(folder)
    told = words("page.data.cleaned", language, name=clean, rows=f"{rows:,}")
    others = [gr.update(choices=names)] * 2
    return [notice("good", escaped(told)), gr.update(choices=names, value=clean), *others]


def _validation_choices(folder: str) -> list[tuple[str, str]]:
    return [("–", NOTHING), *((name, name) for name in dataset_names(folder))]
