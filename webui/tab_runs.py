"""The Runs tab: all runs as a table; one of them with its curve, log and command, and what can be done with it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.command import preview
from engine.options.yaml_text import write_yaml
from engine.runs.folder import Folder
from engine.runs.queue import cancel
from engine.runs.read import UNREADABLE, read_job
from engine.runs.stop import ask_to_stop
from engine.words import words
from webui import live
from webui.again import Again
from webui.aloud import SPEAKS
from webui.checkpoints_view import CheckpointsView, export_updates
from webui.clone import Clone
from webui.compare import CompareView
from webui.curve_view import CurveView
from webui.form import notice, refusal
from webui.frame import FREE, QUICK, Frame, Panel
from webui.ladder import ladder_table
from webui.language import escaped
from webui.log_view import LogView
from webui.retry import ON_CLICK, connect_retry, with_retry
from webui.run_actions import RunActions
from webui.run_edit import RunEdit
from webui.run_table import RunTable

KINDS = ("train", "eval", "export", "gguf")


class RunsTab:
    def __init__(self, frame: Frame, train: Any, shown: Any) -> None:
        """Args: train: the Train tab; shown: the ``gr.State`` with the run that it watches."""
        self._frame, self._train, self._shown = frame, train, shown
        self._chosen = gr.State(None)
        self._table = RunTable(frame, KINDS)
        self._compare = CompareView(frame)
        with gr.Column(elem_classes="run-detail"):
            self._card = gr.HTML(elem_id="run-status", js_on_load=ON_CLICK)
            self._curves = CurveView(frame, "run")
            self._ladder = gr.HTML(elem_id="run-ladder", js_on_load=None)
            self._checkpoints = CheckpointsView(frame)
            self._log = LogView(frame, "run", is_open=False)
            self._command = frame.texts.make(
                gr.Code, {"label": "page.train.command"}, language="shell", interactive=False, elem_id="run-command",
                buttons=["copy"], max_lines=14, lines=1, wrap_lines=True,
            )  # fmt: skip
            with frame.texts.make(gr.Accordion, {"label": "page.runs.yaml"}, open=False, elem_id="run-yaml-box"):
                self._yaml = gr.Code(
                    language="yaml", interactive=False, elem_id="run-yaml", buttons=["copy", "download"], max_lines=24,
                    show_label=False, wrap_lines=True,
                )  # fmt: skip
            self._actions = RunActions(frame, KINDS)
            with self._actions.row:
                self._clone = Clone(frame)
            self._edit = RunEdit(frame, KINDS)
            self._again = Again(frame, train.form.controls)
        with gr.Column(elem_classes="action-bar"):
            self._edit.ask_here()
            self._notice = gr.HTML(elem_id="runs-notice", js_on_load=SPEAKS)
            with gr.Row(elem_classes="buttons"):
                self._chat, self._export, self._stop = (
                    frame.texts.make(
                        gr.Button, {"value": f"page.buttons.{text}"}, elem_id=f"run-{name}", interactive=False,
                        min_width=90, variant="primary" if name == "chat" else "secondary",
                    )
                    for name, text in (
                        ("chat", "open_in_chat"), ("export", "use_for_export"), ("stop", "stop"),
                    )
                )  # fmt: skip
                self._checkpoints.build_resume()
                self._edit.button()

    def opens(self, chat: Any, export: Any) -> None:
        """Connect the buttons that lead on to other tabs."""
        chat.opened_by(self._chat, lambda name: target_of(live.chosen_run(name, *KINDS)), [self._chosen])
        top = self._frame.top
        outputs = [top.path, top.adapters, export.target, self._frame.tabs, self._frame.tab]
        self._export.click(_to_export, self._chosen, outputs, **FREE)
        self._checkpoints.opens(self._chosen, lambda name: live.chosen_run(name, *KINDS), chat, export)

    def connect(self) -> None:
        language = self._frame.language
        outputs = [self._card, self._ladder, self._command, self._yaml, self._chat, self._export, self._stop]
        self._table.connect(self._chosen, self._compare.chosen, self._notice)
        self._frame.panels.append(Panel("runs", [self._chosen], outputs, _watched))
        self._compare.connect("runs", self._notice)
        self._curves.connect("runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice)
        self._log.connect("runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice)
        self._stop.click(_on_stop, [language, self._chosen], self._notice, **QUICK)
        self._checkpoints.connect(
            "runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice, self._shown,
            self._train.notice,
        )  # fmt: skip
        self._clone.connect(self._chosen, KINDS, self._notice, self._train)
        self._actions.connect(self._chosen, self._notice, self._shown, self._train.notice)
        self._edit.connect("runs", self._chosen, self._notice)
        self._again.connect(
            "runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice, self._shown,
            self._train.notice,
        )  # fmt: skip
        connect_retry(self._frame, self._card, self._notice, self._shown, self._train.notice)
        self._frame.notices.append(self._notice)


def target_of(folder: Folder | None) -> dict[str, Any]:
    """What a run left behind that one can chat with, as ``ChatTab.opened_by`` takes it; empty when there is nothing."""
    progress = live.look(folder)
    if folder is None or progress is None:
        return {}
    if progress.kind == "export" and progress.status == "done":
        return {"model": str(progress.result.get("export_dir"))}
    if progress.kind == "gguf" and progress.status == "done":
        is_adapter = bool(progress.result.get("adapter"))  # llama.cpp loads it beside its base only
        return {} if is_adapter else {"gguf": str(progress.result.get("outfile"))}
    adapter = _adapter_of(folder)
    if adapter:
        return {"model": live.model_of(folder), "adapters": [adapter]}
    if (folder.path / "config.json").is_file():
        return {"model": str(folder.path)}
    return {}


def _watched(language: str, chosen: str | None) -> list[Any]:
    folder = live.chosen_run(chosen, *KINDS)
    progress = live.look(folder)
    is_active = live.is_active(progress)
    is_waiting = progress is not None and progress.status == "queued"
    has_adapter = folder is not None and _adapter_of(folder) is not None
    card = live.card(folder, progress, language, escaped(words("page.runs.none", language)))
    return [
        with_retry(card, folder, progress, language),
        ladder_table(folder, language) if folder is not None and progress is not None else "",
        *(gr.update(value=text, visible=bool(text)) for text in _asked(folder)),
        gr.update(interactive=bool(target_of(folder))),
        gr.update(interactive=has_adapter and not is_active),
        gr.update(interactive=is_active or is_waiting),
    ]


def _asked(folder: Folder | None) -> tuple[str, str]:
    """The command that does the same as the run, and all its options as a file that it takes."""
    try:
        job = read_job(folder) if folder else None
    except UNREADABLE as error:
        told = "".join(f"# {line}\n" for line in str(error).splitlines())
        return told, told
    return (preview(job), write_yaml(job.values())) if job else ("", "")


def _on_stop(language: str, chosen: str | None) -> str:
    folder = live.chosen_run(chosen, *KINDS)
    progress = live.look(folder)
    if folder is not None and progress is not None and progress.status == "queued":
        return _taken_out(folder, language)
    if folder is None or not live.is_active(progress):
        return notice("warning", escaped(words("page.train.nothing_to_stop", language)))
    ask_to_stop(folder)
    return notice("good", escaped(words("page.stopping", language)))


def _taken_out(folder: Folder, language: str) -> str:
    try:
        cancel(folder)
    except UserError as error:  # it has begun meanwhile
        return refusal(error, language)
    live.forget_list()
    return notice("good", escaped(words("page.queue.cancelled", language, name=folder.name)))


def _to_export(chosen: str | None) -> list[Any]:
    folder = live.chosen_run(chosen, "train")
    adapter = _adapter_of(folder) if folder else None
    if adapter is None:
        return [gr.skip()] * 5
    return export_updates(folder, adapter, folder.path.name)


def _adapter_of(folder: Folder) -> str | None:
    """The adapter a run leaves behind, or its last checkpoint's."""
    for path in (folder.path, *reversed(folder.checkpoints())):
        if (path / "adapter_config.json").is_file():
            return str(path)
    return None
