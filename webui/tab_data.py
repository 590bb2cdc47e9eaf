"""The Data tab: bring a file, look at rows as the model will see them, check them, choose a cutoff, go on to train."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.words import words
from webui.access.allowed import allowed_path
from webui.controls import control
from webui.data_check import DataCheck
from webui.data_register import DataRegister
from webui.data_rows import DataRows
from webui.dataset_rows import dataset_names
from webui.frame import FREE, QUICK, Frame
from webui.language import explained, named

VIEWS = ("browse", "check", "lengths")


class DataTab:
    """Builds the tab inside the ``gr.Tab`` that is open now."""

    def __init__(self, frame: Frame) -> None:
        self._frame, make = frame, frame.texts.make
        folder = TrainJob.model_fields["dataset_dir"]
        names = dataset_names(folder.default)
        self._train: Any = None
        with gr.Row(elem_classes="data"):
            with gr.Column(elem_classes="data-side", min_width=280):
                with gr.Column(elem_classes="section"):
                    make(gr.HTML, {"value": lambda language: _heading("choose", language)}, js_on_load=None)
                    self.dataset = make(
                        gr.Dropdown,
                        {"label": "page.data.dataset", "info": named("page.data.dataset_help", "dataset")},
                        choices=names, value=names[0] if names else None, allow_custom_value=True,
                        elem_id="data-dataset",
                    )  # fmt: skip
                    self.folder = control("dataset_dir", folder, frame.texts, "data-")
                with gr.Column(elem_classes="section"):
                    make(gr.HTML, {"value": lambda language: _heading("bring", language)}, js_on_load=None)
                    self._register = DataRegister(frame, self.folder)
            self._rows = DataRows(frame, self.dataset, self.folder)
            self._check = DataCheck(frame, self.dataset, self.folder)
            builds = (self._rows.build, self._check.build, self._check.build_lengths)
            with gr.Column(elem_classes="data-main", min_width=280), gr.Tabs(elem_id="data-views") as self._views:
                for name, build in zip(VIEWS, builds, strict=True):
                    with make(gr.Tab, {"label": f"page.data.views.{name}"}, id=name, elem_id=f"data-{name}"):
                        build()
        self._check.build_bar()

    def leads_to(self, train: Any) -> None:
        """Args: train: the Train tab, whose settings count here and which a dataset is carried to."""
        self._train = train

    def remembers(self, load: Any, memory: Any) -> None:
        """Choose what this browser had chosen before. Args: load: the page's event; memory: a ``gr.BrowserState``."""
        load(_remembered, memory, [self.folder, self.dataset], **QUICK)
        remembered = {"fn": lambda folder, name: {"folder": folder, "name": name or ""}, **QUICK}
        self.dataset.change(inputs=[self.folder, self.dataset], outputs=memory, **remembered)

    def connect(self) -> None:
        controls = self._train.form.controls
        trained = [controls["dataset"], controls["eval_dataset"]]
        self._register.connect(self.dataset, trained)
        self._rows.connect(controls)
        self._check.connect(controls, self._rows, self._views, trained)
        self.folder.change(
            _choices, [self.folder, self.dataset], self.dataset, trigger_mode="always_last", **QUICK
        )  # fmt: skip
        self.dataset.focus(lambda folder: gr.update(choices=dataset_names(folder)), self.folder, self.dataset, **QUICK)
        self._check.train.click(
            _to_train, [self.folder, self.dataset],
            [controls["dataset_dir"], controls["dataset"], self._frame.tabs, self._frame.tab], **FREE,
        )  # fmt: skip


def _remembered(chosen: dict[str, str] | None) -> list[Any]:
    folder, name = (chosen or {}).get("folder", ""), (chosen or {}).get("name", "")
    if not _is_there(folder, name):
        return [gr.skip(), gr.skip()]
    return [folder, gr.update(choices=dataset_names(folder), value=name)]


def _choices(folder: str, name: str | None) -> dict[str, Any]:
    """Another folder has other datasets; one that is not there gives way to the first of them."""
    names = dataset_names(folder)
    return gr.update(choices=names, **({} if _is_there(folder, name) else {"value": names[0] if names else None}))


def _is_there(folder: str, name: str | None) -> bool:
    try:
        return bool(name) and (name in dataset_names(folder) or allowed_path(name).is_file())
    except UserError:
        return False


def _to_train(folder: str, name: str | None) -> list[Any]:
    if not name:
        return [gr.skip()] * 4
    return [folder, gr.update(value=[name], choices=dataset_names(folder)), gr.Tabs(selected="train"), "train"]


def _heading(name: str, language: str) -> str:
    return f"<h3>{explained(words(f'page.data.{name}', language), language)}</h3>"
