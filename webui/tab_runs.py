"""The Runs tab: all runs as a table; one of them with its curve, log and command, and what can be done with it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.command import preview
from engine.runs.folder import Folder, model_label
from engine.runs.progress import Progress
from engine.runs.queue import cancel, submit
from engine.runs.read import UNREADABLE, State, read_job
from engine.runs.resume import resumed_job, why_not_resumable
from engine.runs.stop import ask_to_stop
from engine.words import words
from webui import live
from webui.again import Again
from webui.curve_view import CurveView
from webui.form import notice, refusal
from webui.frame import PRIVATE, QUICK, Frame, Panel
from webui.ladder import ladder_table
from webui.language import escaped
from webui.log_view import LogView
from webui.retry import ON_CLICK, connect_retry, with_retry
from webui.run_actions import RunActions
from webui.topbar import checkpoint_choices

KINDS = ("train", "export", "gguf")
COLUMNS = ("name", "kind", "status", "model", "started", "progress", "loss")
MOST_ROWS = 200
ON_ROW_CLICK = """
element.addEventListener('click', (event) => {
  const row = event.target.closest('[data-run]');
  if (row) trigger('select', {run: row.dataset.run});
});
"""


class RunsTab:
    def __init__(self, frame: Frame, train: Any, shown: Any) -> None:
        """Args: train: the Train tab; shown: the ``gr.State`` with the run that it watches."""
        self._frame, self._train, self._shown = frame, train, shown
        self._chosen = gr.State(None)
        self._table = gr.HTML(elem_id="runs-table", elem_classes="runs-table", js_on_load=ON_ROW_CLICK)
        with gr.Column(elem_classes="run-detail"):
            self._card = gr.HTML(elem_id="run-status", js_on_load=ON_CLICK)
            self._curves = CurveView(frame, "run")
            self._ladder = gr.HTML(elem_id="run-ladder", js_on_load=None)
            self._log = LogView(frame, "run", is_open=False)
            self._command = frame.texts.make(
                gr.Code, {"label": "page.train.command"}, language="shell", interactive=False, elem_id="run-command",
                buttons=["copy"], max_lines=14, lines=1, wrap_lines=True,
            )  # fmt: skip
            self._actions = RunActions(frame, KINDS)
            self._again = Again(frame, train.form.controls)
        with gr.Column(elem_classes="action-bar"):
            self._notice = gr.HTML(elem_id="runs-notice", js_on_load=None)
            with gr.Row(elem_classes="buttons"):
                self._chat, self._export, self._resume, self._stop = (
                    frame.texts.make(
                        gr.Button, {"value": f"page.buttons.{text}"}, elem_id=f"run-{name}", interactive=False,
                        min_width=90, variant="primary" if name == "chat" else "secondary",
                    )
                    for name, text in (
                        ("chat", "open_in_chat"), ("export", "use_for_export"), ("resume", "resume"), ("stop", "stop"),
                    )
                )  # fmt: skip

    def opens(self, chat: Any, export: Any) -> None:
        """Connect the buttons that lead on to other tabs."""
        chat.opened_by(self._chat, lambda name: target_of(live.chosen_run(name, *KINDS)), [self._chosen])
        top = self._frame.top
        outputs = [top.path, top.adapters, export.target, self._frame.tabs, self._frame.tab]
        self._export.click(_to_export, self._chosen, outputs, **QUICK)

    def connect(self) -> None:
        language = self._frame.language
        outputs = [
            self._table, self._card, self._ladder, self._command, self._chat, self._export, self._resume, self._stop,
        ]  # fmt: skip
        self._frame.panels.append(Panel("runs", [self._chosen], outputs, _watched))
        self._curves.connect("runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice)
        self._log.connect("runs", self._chosen, lambda name: live.chosen_run(name, *KINDS), self._notice)
        self._table.select(_clicked, None, [self._chosen, self._notice], **QUICK)
        self._stop.click(_on_stop, [language, self._chosen], self._notice, **QUICK)
        self._resume.click(
            _on_resume, [language, self._chosen],
            [self._notice, self._shown, self._frame.tabs, self._frame.tab], trigger_mode="once", **PRIVATE,
        )  # fmt: skip
        self._actions.connect(self._chosen, self._notice, self._shown, self._train.notice)
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
        return {"gguf": str(progress.result.get("outfile"))}
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
    can_resume = folder is not None and progress is not None and why_not_resumable(folder) is None
    has_adapter = folder is not None and _adapter_of(folder) is not None
    card = live.card(folder, progress, language, escaped(words("page.runs.none", language)))
    return [
        _table(live.runs_of(*KINDS)[:MOST_ROWS], folder, language),
        with_retry(card, folder, progress, language),
        ladder_table(folder, language) if folder is not None and progress is not None else "",
        _command(folder),
        gr.update(interactive=bool(target_of(folder))),
        gr.update(interactive=has_adapter and not is_active),
        gr.update(interactive=can_resume),
        gr.update(interactive=is_active or is_waiting),
    ]


def _clicked(event: gr.EventData) -> list[Any]:
    return [event.run, ""]


def _table(runs: list[tuple[Folder, State]], chosen: Folder | None, language: str) -> str:
    if not runs:
        return f'<div class="empty">{escaped(words("page.runs.none_yet", language))}</div>'
    head = "".join(f'<th scope="col">{escaped(words(f"page.runs.{name}", language))}</th>' for name in COLUMNS)
    rows = "".join(_row(folder, state, chosen, language) for folder, state in runs)
    return f'<div class="scroller"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(folder: Folder, state: State, chosen: Folder | None, language: str) -> str:
    progress = live.look(folder) or Progress(state.status, state.kind)
    done = live.percent(progress)
    loss = f"{progress.loss:.4g}" if progress.loss is not None else "–"
    status = escaped(words(f"page.status.{state.status}", language))
    is_chosen = chosen is not None and folder.path == chosen.path
    name = escaped(folder.name)
    cells = (
        f'<button type="button" aria-pressed="{str(is_chosen).lower()}">{name}</button>',
        escaped(words(f"page.kinds.{state.kind}", language)),
        f'<span class="chip {state.status}">{status}</span>',
        escaped(live.model_of(folder)),
        escaped(live.moment(state.started_at)),
        f"{done:.0f} %" if done is not None else "–",
        loss,
    )
    row = "".join(f'<td class="{column}">{cell}</td>' for column, cell in zip(COLUMNS, cells, strict=True))
    return f'<tr data-run="{name}"{" class=chosen" if is_chosen else ""}>{row}</tr>'


def _command(folder: Folder | None) -> str:
    try:
        return preview(read_job(folder)) if folder else ""
    except UNREADABLE as error:
        return "".join(f"# {line}\n" for line in str(error).splitlines())


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


def _on_resume(language: str, chosen: str | None) -> list[Any]:
    """Go on with a run in its own folder, and watch it on the Train tab."""
    folder = live.chosen_run(chosen, *KINDS)
    try:
        submit(resumed_job(folder), language)
    except UserError as error:
        return [refusal(error, language), gr.skip(), gr.skip(), gr.skip()]
    live.forget_list()
    return ["", None, gr.Tabs(selected="train"), "train"]


def _to_export(chosen: str | None) -> list[Any]:
    folder = live.chosen_run(chosen, "train")
    adapter = _adapter_of(folder) if folder else None
    if adapter is None:
        return [gr.skip()] * 5
    model = live.model_of(folder)
    adapters = gr.update(value=[adapter], choices=checkpoint_choices(model))
    return [model, adapters, f"merged/{model_label(model)}-{folder.path.name}", gr.Tabs(selected="export"), "export"]


def _adapter_of(folder: Folder) -> str | None:
    """The adapter a run leaves behind, or its last checkpoint's."""
    for path in (folder.path, *reversed(folder.checkpoints())):
        if (path / "adapter_config.json").is_file():
            return str(path)
    return None
