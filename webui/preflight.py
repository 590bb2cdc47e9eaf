"""Will it fit? Verdict, bar and remedies for what the training form says, and the trial of two steps."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.catalog.cheaper import MOST
from engine.catalog.devices import Device, devices, memory_text
from engine.catalog.memory import Estimate
from engine.errors import UserError
from engine.options.command import job_from
from engine.options.jobs import PreflightJob, TrainJob
from engine.runs.phases import phase_facts
from engine.runs.preflight import Answer, preflight
from engine.runs.preflight_words import (
    assumption_words,
    change_options,
    change_words,
    disk_words,
    measured_words,
    verdict_words,
)  # fmt: skip
from engine.runs.start import start
from engine.words import words
from webui import live
from webui.aloud import SPEAKS
from webui.form import Form, notice, problems_in, refusal
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped, marked, sentence

DEVICES_AGE_S = 5
"""nvidia-smi takes up to a second; free memory changes slowly enough."""
TOLD_S = 600
"""How long the failure of a trial stays in sight."""


class Preflight:
    """Builds the panel inside the column that is open now."""

    def __init__(self, frame: Frame, form: Form) -> None:
        self._frame, self._form = frame, form
        make = frame.texts.make
        with gr.Column(elem_classes="preflight", elem_id="preflight") as self._box:
            self._picture = gr.HTML(elem_id="preflight-answer", js_on_load=None)
            self._apply = [
                gr.Button("", visible=False, size="sm", elem_id=f"preflight-apply-{number + 1}", elem_classes="remedy")
                for number in range(MOST)
            ]
            self._details = gr.HTML(elem_id="preflight-details", js_on_load=None)
            self._trial = gr.HTML(elem_id="preflight-trial", js_on_load=None)
            self._smoke = make(
                gr.Button, {"value": "page.preflight.smoke"}, size="sm", elem_id="preflight-smoke"
            )  # fmt: skip
        self._notice = gr.HTML(elem_id="preflight-notice", js_on_load=SPEAKS)
        frame.notices.append(self._notice)

    def connect(self) -> None:
        form, language = self._form, self._frame.language
        asked = [language, *form.inputs]
        shown = [self._picture, self._details, *self._apply]
        triggers = [Context.root_block.load, self._frame.spoken.change, *(each.change for each in form.inputs)]
        gr.on(triggers, self._look, asked, shown, trigger_mode="always_last", **QUICK)
        self._trial.change(self._look, asked, shown, **QUICK)
        for number, button in enumerate(self._apply):

            def apply(language: str, *raw: Any, number: int = number) -> list[Any]:
                return self._on_apply(number, language, raw)

            button.click(apply, asked, [self._notice, *form.inputs], **QUICK)
        self._smoke.click(self._on_smoke, asked, [self._notice, *form.inputs], trigger_mode="once", **FREE)
        self._frame.panels.append(Panel("train", [], [self._box, self._trial, self._smoke], _watched))

    def _job(self, raw: tuple[Any, ...]) -> TrainJob:
        """What the form says, whether it could be started or not. Raises: Refused, if values are not valid."""
        return TrainJob.from_values(self._form.values(raw))

    def _look(self, language: str, *raw: Any) -> list[Any]:
        try:
            answer = preflight(self._job(raw), _devices(int(time.monotonic() / DEVICES_AGE_S)))
        except UserError:
            text = f'<p class="fine">{escaped(words("page.preflight.incomplete", language))}</p>'
            return [text, "", *[gr.update(visible=False)] * MOST]
        buttons = [
            gr.update(value=words("page.preflight.apply", language, options=change_options(change)), visible=True)
            for change in answer.changes
        ]
        buttons += [gr.update(visible=False)] * (MOST - len(buttons))
        return [picture(answer, language), details(answer, language), *buttons]

    def _on_apply(self, number: int, language: str, raw: tuple[Any, ...]) -> list[Any]:
        """Set the options of a change in the form."""
        skipped = [gr.skip()] * len(self._form.inputs)
        try:
            answer = preflight(self._job(raw), _devices(int(time.monotonic() / DEVICES_AGE_S)))
            change = answer.changes[number]
        except (UserError, IndexError):  # the form has changed since the button was drawn
            return [gr.skip(), *skipped]
        told = words("page.preflight.applied", language, options=change_options(change))
        return [notice("good", escaped(told)), *self._form.filled(change.values)]

    def _on_smoke(self, language: str, *raw: Any) -> list[Any]:
        running = live.active_run("train", "preflight")
        if running:
            text = escaped(words("page.preflight.already_running", language))
            return [notice("warning", text), *self._form.notes((), language)]
        try:
            job, _ = job_from(PreflightJob, {**self._form.values(raw), "smoke": True})
            start(job, language)
        except UserError as error:
            return [refusal(error, language), *self._form.notes(problems_in(error), language)]
        live.forget_list()
        return ["", *self._form.notes((), language)]


@lru_cache(maxsize=1)
def _devices(moment: int) -> tuple[Device, ...]:
    """The devices of this machine, asked anew when ``moment`` changes."""
    return devices()


def picture(answer: Answer, language: str) -> str:
    """The verdict, the bar, and what would make it fit."""
    heading = escaped(words("page.preflight.label", language))
    found = answer.estimate
    verdict = (found.verdict if found else None) or "unknown"
    text = f'<p class="verdict {verdict}">{marked(verdict_words(answer, language))}</p>'
    bar = memory_bar(found, language) if found else ""
    ways = ""
    if found and found.verdict == "too_big" and not answer.changes:
        ways = f'<p class="ways">{escaped(words("preflight.no_changes", language))}</p>'
    if answer.changes:
        items = "".join(
            f"<li><code>{escaped(change_options(each))}</code><br>{escaped(change_words(each, language))}</li>"
            for each in answer.changes
        )
        ways = f'<p class="ways">{escaped(words("preflight.changes", language))}</p><ol class="ways">{items}</ol>'
    return f'<section class="fit"><h3>{heading}</h3>{text}{bar}{ways}</section>'


def memory_bar(found: Estimate, language: str) -> str:
    """What is needed, part by part, beside a line at what is free; each part is named with its size below."""
    whole = max(found.peak_bytes, found.free_bytes) * 1.02
    at, drawn, legend = 0.0, [], []
    for name, size in found.parts.items():
        label, told = escaped(words(f"preflight.parts.{name}", language)), memory_text(size)
        x, width = at / whole * 1000, size / whole * 1000
        drawn.append(
            f'<rect class="part {name}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"><title>{label}: {told}'
            "</title></rect>"
        )
        legend.append(f'<span class="key part {name}">{label} <b>{told}</b></span>')
        at += size
    free = ""
    if found.free_bytes:
        limit = found.free_bytes / whole * 1000
        said = escaped(words("page.preflight.free", language, size=memory_text(found.free_bytes)))
        side = "left" if limit > 500 else "right"
        free = (
            f'<line class="free-line" x1="{limit:.2f}" x2="{limit:.2f}" y1="-2" y2="12"/>',
            f'<span class="free {side}" style="left:{limit / 10:.2f}%">{said}</span>',
        )
    parts = ", ".join(f"{words(f'preflight.parts.{n}', language)} {memory_text(s)}" for n, s in found.parts.items())
    spoken = escaped(
        words("page.preflight.spoken", language, needed=memory_text(found.peak_bytes),
              free=memory_text(found.free_bytes), parts=parts)
    )  # fmt: skip
    line, label = free or ("", "")
    return (
        f'<div class="memory-bar" role="img" aria-label="{spoken}"><svg viewBox="0 -2 1000 14" '
        f'preserveAspectRatio="none">{"".join(drawn)}{line}</svg>{label}</div>'
        f'<div class="legend memory-legend">{"".join(legend)}</div>'
    )


def details(answer: Answer, language: str) -> str:
    """What was measured, the disk, and what all of it rests on."""
    measured = "".join(f"<li>{escaped(line)}</li>" for line in measured_words(answer, language))
    lines = [*assumption_words(answer, language), disk_words(answer, language)]
    rests = "".join(f"<li>{escaped(line)}</li>" for line in lines if line)
    if not rests:
        return ""
    tried = f'<ul class="measured">{measured}</ul>' if measured else ""
    heading = escaped(words("page.preflight.assumptions", language))
    return f'{tried}<details class="fine" open><summary>{heading}</summary><ul>{rests}</ul></details>'


def _watched(language: str) -> list[Any]:
    """How far a trial is, or why the last one failed; the answer itself tells what a trial has measured.

    All of it is out of sight while a training runs: it is then too late to ask.
    """
    training = live.look(live.chosen_run(None, "train"))
    box = gr.update(visible=not live.is_active(training))
    folder = live.chosen_run(None, "preflight")
    progress = live.look(folder)
    if live.is_active(progress):
        waiting = [words("page.progress.waiting", language)]
        phase = " · ".join(phase_facts(progress.phase, language) if progress.phase else waiting)
        text = escaped(words("page.preflight.trying", language, phase=phase))
        return [box, f'<div class="notice" role="status">{text}</div>', gr.update(interactive=False)]
    is_recent = progress is not None and time.time() - (progress.finished_at or 0) < TOLD_S
    if is_recent and progress.status == "failed" and progress.error:
        reason = sentence(progress.error["key"], language, progress.error.get("facts") or {})
        told = marked(words("page.preflight.failed", language, reason=reason))
        return [box, notice("error", told), gr.update(interactive=True)]
    return [box, "", gr.update(interactive=True)]
