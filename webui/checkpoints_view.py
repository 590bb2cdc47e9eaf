"""The checkpoints of a run on the Runs tab: what each holds, whether it is intact, and going on from a chosen one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs.checkpoints import numbered
from engine.runs.folder import Folder, model_label
from engine.runs.queue import submit
from engine.runs.resume import Point, point_of, resumed_job
from engine.runs.saved import Saved, saved, verify
from engine.runs.saved_words import outlook
from engine.words import words
from webui import live
from webui.checkpoint_table import checkpoint_table
from webui.form import notice, refusal
from webui.frame import FREE, Frame, Panel
from webui.language import escaped, marked
from webui.queue import queued_notice
from webui.topbar import checkpoint_choices

RunOf = Callable[[str | None], Folder | None]

ON_PICK = """
let focused = null;
element.addEventListener('focusin', (event) => { focused = event.target.dataset?.step ?? null; });
element.addEventListener('change', (event) => {
  if (event.target.dataset?.step) trigger('select', {step: Number(event.target.dataset.step)});
});
new MutationObserver(() => {
  const lost = focused && document.activeElement === document.body;
  if (lost) element.querySelector(`input[data-step="${focused}"]`)?.focus();
}).observe(element, {childList: true, subtree: true});
"""
"""The table is drawn anew when something else is chosen; who moves with the arrow keys stays where they were."""


class CheckpointsView:
    """Builds the table here, and the button that goes on where ``build_resume`` is called."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        make = frame.texts.make
        box = make(
            gr.Accordion, {"label": "checkpoints.title"}, open=False, visible=False, elem_id="run-checkpoints-box"
        )
        with box:
            self._table = gr.HTML(
                elem_id="run-checkpoints", elem_classes="runs-table checkpoints", js_on_load=ON_PICK
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self._check, self._chat, self._export = (
                    make(
                        gr.Button, {"value": f"checkpoints.{name}"}, size="sm", interactive=False, min_width=90,
                        elem_id=f"run-checkpoints-{name}",
                    )
                    for name in ("check", "chat", "export")
                )  # fmt: skip
            self._said = gr.HTML(elem_id="run-checkpoints-said", js_on_load=None)
        self._box = box
        self._picked = gr.State({})
        self._checked = gr.State({})

    def build_resume(self) -> None:
        """The button, and beside it from where it goes on, or why it cannot."""
        # No other words than those of the panel: the button says which step, and only a run knows that.
        text = words("page.buttons.resume", self._frame.texts.language)
        self._resume = gr.Button(text, elem_id="run-resume", interactive=False, min_width=90)
        self._note = gr.HTML(elem_id="run-resume-note", js_on_load=None)

    def opens(self, chosen: Any, run_of: RunOf, chat: Any, export: Any) -> None:
        """Connect the buttons that lead on to other tabs with the chosen checkpoint, or the latest one."""
        top, inputs = self._frame.top, [chosen, self._picked]

        def target(name: str | None, picked: dict[str, Any]) -> dict[str, Any]:
            folder = run_of(name)
            adapter = _adapter(folder, picked, saved(folder)) if folder else None
            return {"model": live.model_of(folder), "adapters": [str(adapter.path)]} if folder and adapter else {}

        def merge(name: str | None, picked: dict[str, Any]) -> list[Any]:
            folder = run_of(name)
            adapter = _adapter(folder, picked, saved(folder)) if folder else None
            if folder is None or adapter is None:
                return [gr.skip()] * 5
            return export_updates(folder, str(adapter.path), f"{folder.path.name}-{adapter.step}")

        chat.opened_by(self._chat, target, inputs)
        outputs = [top.path, top.adapters, export.target, self._frame.tabs, self._frame.tab]
        self._export.click(merge, inputs, outputs, **FREE)

    def connect(self, tab: str, chosen: Any, run_of: RunOf, said: Any, shown: Any, trains_notice: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run; said: for messages; shown: the run on Train."""
        frame, language = self._frame, self._frame.language
        outputs = [
            self._box, self._table, self._check, self._chat, self._export, self._said, self._resume, self._note,
        ]  # fmt: skip
        frame.panels.append(
            Panel(
                tab, [chosen, self._picked, self._checked], outputs,
                lambda language, name, picked, checked: _watched(run_of(name), picked, checked, language),
            )
        )  # fmt: skip

        def pick(name: str | None, event: gr.EventData) -> dict[str, Any]:
            folder = run_of(name)
            return {"run": folder.name, "step": event.step} if folder else {}

        def check(name: str | None) -> Iterator[dict[str, Any]]:
            yield from _read_all(run_of(name))

        self._table.select(pick, chosen, self._picked, **FREE)
        self._check.click(check, chosen, self._checked, trigger_mode="once", **FREE)

        def resume(request: gr.Request, language: str, name: str | None, picked: dict[str, Any]) -> list[Any]:
            folder = run_of(name)
            if folder is None or (name and folder.name != name):  # deleted meanwhile
                return [notice("error", escaped(words("checkpoints.gone", language))), *[gr.skip()] * 4]
            return _resumed(folder, picked, language, request.session_hash)

        self._resume.click(
            resume, [language, chosen, self._picked], [said, shown, trains_notice, frame.tabs, frame.tab],
            trigger_mode="once", **FREE,
        )  # fmt: skip


def export_updates(folder: Folder, adapter: str, name: str) -> list[Any]:
    """Base model, adapter and target of the Export tab, and that tab itself.

    Args:
        name: of the merged model's folder, behind the name of the base model.
    """
    model = live.model_of(folder)
    adapters = gr.update(value=[adapter], choices=checkpoint_choices(model))
    return [model, adapters, f"merged/{model_label(model)}-{name}", gr.Tabs(selected="export"), "export"]


def _watched(folder: Folder | None, picked: dict[str, Any], checked: dict[str, Any], language: str) -> list[Any]:
    progress = live.look(folder)
    off, resume = gr.update(interactive=False), words("page.buttons.resume", language)
    nothing = [gr.update(visible=False), "", off, off, off, "", gr.update(value=resume, interactive=False)]
    if folder is None or progress is None:
        return [*nothing, ""]
    try:
        found = saved(folder) if progress.kind == "train" else []
        step = _step(found, folder, picked)
        view = outlook(folder, step, language, found)
    except FileNotFoundError:  # deleted just now
        return [*nothing, ""]
    note = f'<p class="fine">{marked(view.text)}</p>'
    if progress.kind != "train":
        return [*nothing[:-1], gr.update(value=resume, interactive=view.point is not None), note]
    can_lead_on = gr.update(interactive=_adapter(folder, picked, found) is not None)
    label = _label(view.point, language) if view.point else resume
    return [
        gr.update(visible=True),
        checkpoint_table(found, step, language),
        gr.update(interactive=bool(found)),
        can_lead_on,
        can_lead_on,
        _what_was_found(checked, found, language) if checked.get("run") == folder.name else "",
        gr.update(value=label, interactive=view.point is not None),
        note,
    ]


def _label(point: Point, language: str) -> str:
    if point.checkpoint is None:
        return words("page.buttons.resume", language)
    return words(f"checkpoints.{'branch_at' if point.is_branch else 'resume_at'}", language, step=point.step)


def _step(found: list[Saved], folder: Folder, picked: dict[str, Any]) -> int | None:
    """The step that was chosen of this run, if there is still an intact checkpoint of it."""
    if picked.get("run") != folder.name:
        return None
    return next((each.step for each in found if each.step == picked["step"] and not each.damaged), None)


def _adapter(folder: Folder, picked: dict[str, Any], found: list[Saved]) -> Saved | None:
    """The chosen checkpoint, else the latest, if it is an adapter."""
    step = _step(found, folder, picked)
    chosen = (each for each in found if (each.is_latest if step is None else each.step == step))
    return next((each for each in chosen if "adapter" in each.holds), None)


def _read_all(folder: Folder | None) -> Iterator[dict[str, Any]]:
    """Read one checkpoint after the other to its last byte; the panel shows what is known of each by then."""
    paths = numbered(folder.path) if folder else []
    for number, path in enumerate(paths, start=1):
        yield {"run": folder.name if folder else "", "name": path.name, "number": number, "count": len(paths)}
        verify(path)
    if folder and paths:
        yield {"run": folder.name, "count": len(paths)}


def _what_was_found(checked: dict[str, Any], found: list[Saved], language: str) -> str:
    if "number" in checked:
        text = escaped(
            words("checkpoints.checking", language, **{key: checked[key] for key in ("name", "number", "count")})
        )
        return f'<p class="fine" role="status">{text}</p>'
    damaged = [f"{each.path.name} ({each.damaged})" for each in found if each.damaged]
    foreign = [each.path.name for each in found if not each.has_list and not each.damaged]
    if damaged:
        said = words("checkpoints.checked_damaged", language, names=", ".join(damaged))
    else:
        said = words("checkpoints.checked", language, count=sum(each.is_verified for each in found))
    if foreign:
        said += " " + words("checkpoints.checked_foreign", language, names=", ".join(foreign))
    return notice("error" if damaged else "warning" if foreign else "good", escaped(said))


def _resumed(folder: Folder, picked: dict[str, Any], language: str, token: str | None) -> list[Any]:
    """Go on with a run, in its own folder or as a new one, and watch it on the tab of its kind."""
    step = _step(saved(folder), folder, picked)
    try:
        job = resumed_job(folder, step)
        tab = "eval" if job.kind == "eval" else "train"
        is_branch = tab == "train" and point_of(folder, step).is_branch
        again = submit(job, language, token)
    except UserError as error:
        return [refusal(error, language), *[gr.skip()] * 4]
    live.forget_list()
    branched = notice("good", escaped(words("checkpoints.branched", language, step=step, name=folder.name)))
    said = (branched if is_branch else "") + queued_notice(again, language)
    return ["", again.name if is_branch else None, said, gr.Tabs(selected=tab), tab]
