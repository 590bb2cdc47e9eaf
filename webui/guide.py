"""Four steps to a first tuned model, a button for each. What is done is seen from what there is, never remembered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from engine.catalog.models import BUNDLED, model_problem
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.progress import Progress
from engine.runs.read import UNREADABLE, read_job
from engine.words import words
from webui import live
from webui.access.allowed import allowed_path
from webui.controls import NOTHING
from webui.dataset_rows import dataset_names
from webui.form import Form, refusal
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped
from webui.presets import Presets
from webui.tab_runs import target_of

STEPS = ("model", "data", "start", "chat")
DATASET, PRESET = "identity", "quick"
ENOUGH = 2
"""Trainings that have ended well here, from which on nobody is shown the guide who has not asked for it."""
AWAY, HERE = ("() => ({is_away: true})", "() => ({is_away: false})")


class Step(NamedTuple):
    """Args: can_act: whether its button would do something now; told: what there is, or what to do."""

    is_done: bool
    can_act: bool
    told: str


class Guide:
    """Builds the four steps here."""

    def __init__(self, frame: Frame, memory: Any) -> None:
        """Args: memory: a ``gr.BrowserState`` outside of the tabs: whether this visitor has put the guide away."""
        self._frame, self._memory = frame, memory
        make = frame.texts.make
        self._open = make(
            gr.Button, {"value": "guide.open"}, size="sm", elem_id="guide-open", min_width=80, visible=False
        )  # fmt: skip
        with gr.Column(elem_id="guide", elem_classes="guide", visible=False) as self._box:
            with gr.Row(elem_classes="guide-head"):
                make(gr.HTML, {"value": _heading}, js_on_load=None)
                self._close = make(
                    gr.Button, {"value": "guide.close"}, size="sm", elem_id="guide-close", min_width=80, scale=0
                )  # fmt: skip
            with gr.Row(elem_classes="guide-steps"):
                self._told, self._acts = [], []
                for name in STEPS:
                    with gr.Column(elem_classes="guide-step", min_width=150):
                        self._told.append(gr.HTML(elem_id=f"guide-{name}-told", js_on_load=None))
                        text = {"start": "page.buttons.start", "chat": "page.buttons.open_in_chat"}
                        key = text.get(name, f"guide.{name}.act")
                        self._acts.append(
                            make(gr.Button, {"value": key}, size="sm", elem_id=f"guide-{name}", min_width=80)
                        )
        self._model, self._data, self.start, self.chat = self._acts

    def connect(self, form: Form, presets: Presets, shown: Any, notice_box: Any) -> None:
        """Args: shown: the ``gr.State`` with the run that is watched."""
        top, memory, data = self._frame.top, self._memory, form.controls["dataset"]
        seen = [memory, top.path, data, shown]
        outputs = [self._box, self._open, *self._told, *self._acts]
        self._frame.panels.append(Panel("train", seen, outputs, _watched))
        self._close.click(None, None, memory, js=AWAY)
        self._open.click(None, None, memory, js=HERE)
        self._model.click(
            lambda: [BUNDLED.location(), NOTHING, []], None, [top.path, top.template, top.adapters], **QUICK
        )

        def take(language: str, *raw: Any) -> list[Any]:
            return _take(form, presets, language, raw)

        self._data.click(
            take, [self._frame.language, *form.inputs], [notice_box, *presets.filling, *form.inputs],
            trigger_mode="once", **FREE,
        )  # fmt: skip


def _take(form: Form, presets: Presets, language: str, raw: Sequence[Any]) -> list[Any]:
    """The demonstration data, with the settings of a quick try."""
    folder = form.held(raw)["dataset_dir"]
    if DATASET not in dataset_names(folder):
        folder = TrainJob.model_fields["dataset_dir"].default
    try:
        plan = presets.plan(PRESET, raw, dataset_dir=folder, dataset=(DATASET,), eval_dataset=(), stage="sft")
    except UserError as error:
        return [refusal(error, language), *[gr.skip()] * (len(presets.filling) + len(form.inputs))]
    return ["", *presets.fill(plan, escaped(words("guide.data.taken", language)))]


def target_of_training(name: str | None) -> dict[str, Any]:
    """What the watched training has left behind to chat with."""
    return target_of(live.chosen_run(name, "train"))


def _watched(
    language: str, memory: dict[str, bool] | None, path: str, datasets: Sequence[str], shown: str | None
) -> list[Any]:  # fmt: skip
    """The steps, while the guide is in sight; of a guide that is put away nothing is looked at."""
    if _is_away(memory):
        return [gr.update(visible=False), gr.update(visible=True), *[gr.skip()] * (2 * len(STEPS))]
    steps = steps_of(path, datasets, live.chosen_run(shown, "train"), language)
    following = next((number for number, step in enumerate(steps) if not step.is_done), None)
    told = [
        _step(number, name, step, number == following, language)
        for number, (name, step) in enumerate(zip(STEPS, steps, strict=True))
    ]
    acts = [
        gr.update(interactive=step.can_act, variant="primary" if number == following else "secondary")
        for number, step in enumerate(steps)
    ]
    return [gr.update(visible=True), gr.update(visible=False), *told, *acts]


def _is_away(memory: dict[str, bool] | None) -> bool:
    """As the visitor has chosen; without a choice it is in sight until some trainings have ended well here."""
    chosen = (memory or {}).get("is_away")
    if chosen is not None:
        return bool(chosen)
    return sum(state.status == "done" for _, state in live.runs_of("train")) >= ENOUGH


def steps_of(path: str | None, datasets: Sequence[str], run: Folder | None, language: str) -> list[Step]:
    """How far a visitor is. Args: path: of the model; run: the training that is watched."""
    progress = live.look(run)
    has_model = _is_model(path)
    target = target_of(run) if progress is not None and not live.is_active(progress) else {}
    is_loaded = bool(target) and target == _loaded()

    def text(key: str, **facts: Any) -> str:
        return words(f"guide.{key}", language, **facts)

    model = text("model.chosen", model=path) if has_model else text("model.text")
    data = text("data.chosen", datasets=", ".join(datasets)) if datasets else text("data.text")
    return [
        Step(has_model, path != BUNDLED.location(), model),
        Step(bool(datasets), True, data),
        Step(
            progress is not None and progress.status == "done" and bool(target),
            has_model and bool(datasets) and not live.is_active(progress), _trained(run, progress, language),
        ),
        Step(is_loaded, bool(target), text("chat.loaded" if is_loaded else "chat.text")),
    ]  # fmt: skip


def _is_model(path: str | None) -> bool:
    try:
        return bool(path and path.strip()) and model_problem(str(allowed_path(path))) is None
    except UserError:
        return False


def _trained(run: Folder | None, progress: Progress | None, language: str) -> str:
    if run is None or progress is None:
        return words("guide.start.text", language)
    if live.is_active(progress):
        share = live.percent(progress)
        if share is None:
            return words("guide.start.begun", language)
        return words("guide.start.running", language, share=f"{share:.0f}")
    if progress.status == "queued":
        return words("guide.start.queued", language)
    if progress.status == "done":
        return words("guide.start.finished", language, name=run.name)
    return words("guide.start.ended", language, status=words(f"page.status.{progress.status}", language))


def _loaded() -> dict[str, Any]:
    """What the chat holds now, in the form of ``target_of``; empty: nothing."""
    for folder, state in live.runs_of("chat"):
        if state.status in ("starting", "running") and not state.owner_pid:
            try:
                return _asked_of(folder, folder.job.stat().st_mtime_ns)
            except UNREADABLE:
                return {}
    return {}


@lru_cache(maxsize=8)
def _asked_of(folder: Folder, changed_ns: int) -> dict[str, Any]:
    job = read_job(folder)
    adapters = [str(Path(each)) for each in job.adapter_name_or_path]
    return {"model": job.model_name_or_path} | ({"adapters": adapters} if adapters else {})


def _step(number: int, name: str, step: Step, is_next: bool, language: str) -> str:
    title = escaped(words(f"guide.{name}.title", language))
    done = f'<span class="unseen">{escaped(words("guide.done", language))}</span>' if step.is_done else ""
    mark = "✓" if step.is_done else str(number + 1)
    kind = "done" if step.is_done else "next" if is_next else "later"
    return (
        f'<div class="step {kind}"><i aria-hidden="true">{mark}</i><div><b>{title}</b>{done}'
        f"<p>{escaped(step.told)}</p></div></div>"
    )


def _heading(language: str) -> str:
    title, about = (escaped(words(f"guide.{key}", language)) for key in ("title", "about"))
    return f"<h3>{title}</h3><p>{about}</p>"
