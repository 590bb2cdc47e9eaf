"""Presets at the head of the training form: what one would change is shown, then applied in one answer, and undone.

What a preset sets follows from the form as it is (``engine.runs.presets``): nothing is filled in that was not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from engine.catalog.devices import devices
from engine.catalog.presets import NAMES, Preset
from engine.errors import Refused, UserError
from engine.options.base import choices_of, plain_type
from engine.options.jobs import TrainJob
from engine.runs.preflight import Answer
from engine.runs.preflight_words import verdict_words
from engine.runs.presets import job_so_far, preset_for
from engine.words import words
from webui.controls import NOTHING, choice_words, to_control
from webui.form import Form, notice, refusal
from webui.frame import FREE, QUICK, Frame
from webui.language import escaped, marked

SHOW_PLAN = "() => setTimeout(() => document.querySelector('#presets').scrollIntoView({block: 'nearest'}), 150)"
SHARES = ("warmup_steps", "save_steps", "eval_steps", "val_size")
"""Options of which a number below 1 is a share."""


@dataclass(frozen=True)
class Applied:
    """A preset that fills the form. ``before``, ``after``: what fields held and hold, by option."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]


class Plan(NamedTuple):
    """What a preset would do to a form.

    Args:
        before: what the fields hold that would change, by option; changes: what they would hold.
        job: the form as it would be.
    """

    name: str
    before: dict[str, Any]
    changes: dict[str, Any]
    preset: Preset
    job: TrainJob


class Presets:
    """Builds the section inside the column that is open now."""

    def __init__(self, frame: Frame, form: Form) -> None:
        self._frame, self._form = frame, form
        make = frame.texts.make
        with gr.Column(elem_classes="section presets", elem_id="presets"):
            make(gr.HTML, {"value": _heading}, js_on_load=None)
            with gr.Row(elem_classes="buttons"):
                self._names = [
                    make(gr.Button, {"value": f"presets.{name}"}, size="sm", elem_id=f"preset-{name}", min_width=90)
                    for name in NAMES
                ]
            self._plan = gr.HTML(elem_id="preset-plan", js_on_load=None)
            # Out of sight again with each switch of the language, which clears the plan: it spoke the other one.
            with make(gr.Row, {"visible": lambda language: False}, elem_classes="buttons") as self._choice:
                self._apply = make(
                    gr.Button, {"value": "presets.apply"}, size="sm", variant="primary", elem_id="preset-apply",
                    min_width=90,
                )  # fmt: skip
                self._close = make(
                    gr.Button, {"value": "presets.close"}, size="sm", elem_id="preset-close", min_width=90
                )  # fmt: skip
            self._undo = make(
                gr.Button, {"value": "presets.undo"}, size="sm", elem_id="preset-undo", visible=False, min_width=90
            )  # fmt: skip
        self._shown, self._applied = gr.State(None), gr.State(None)

    @property
    def filling(self) -> list[Any]:
        """What ``fill`` gives updates for, before those of the form's inputs."""
        return [self._plan, self._choice, self._undo, self._shown, self._applied]

    def connect(self) -> None:
        language, inputs = self._frame.language, self._form.inputs
        panel = [self._plan, self._choice, self._shown]
        for name, button in zip(NAMES, self._names, strict=True):

            def look(language: str, *raw: Any, name: str = name) -> list[Any]:
                return self._look(name, language, raw)

            button.click(look, [language, *inputs], panel, **QUICK).then(None, js=SHOW_PLAN)
        self._apply.click(
            self._on_apply, [language, self._shown, *inputs], [*self.filling, *inputs], trigger_mode="once", **FREE
        )
        self._undo.click(
            self._on_undo, [language, self._applied, *inputs], [*self.filling, *inputs], trigger_mode="once", **FREE
        )
        self._close.click(_closed, None, panel, **QUICK)
        self._frame.notices.append(self._plan)

    def plan(self, name: str, raw: Sequence[Any], **first: Any) -> Plan:
        """What a preset would change. Args: first: options that are set before, and change with it.

        Raises:
            Refused: the box with further options cannot be read.
        """
        values = {**self._form.values(raw), **first}
        chosen = preset_for(name, job_so_far(values), devices())
        fields, held = TrainJob.model_fields, self._form.held(raw)
        wanted = {option: value for option, value in {**first, **chosen.values}.items() if option in held}
        changes = {
            option: to_control(fields[option], value)
            for option, value in wanted.items()
            if not _is_same(option, held[option], value)
        }
        shown = dict(zip(self._form.controls, raw, strict=False))
        before = {option: shown[option] for option in changes}
        return Plan(name, before, changes, chosen, job_so_far({**values, **chosen.values}))

    def fill(self, plan: Plan, said: str) -> list[Any]:
        """One answer that makes the changes: updates for ``filling`` and for the form's inputs."""
        applied = Applied(plan.name, plan.before, plan.changes)
        return [notice("good", said), gr.update(visible=False), gr.update(visible=True), None, applied,
                *self._put(plan.changes)]  # fmt: skip

    def _look(self, name: str, language: str, raw: Sequence[Any], said: str = "") -> list[Any]:
        """Show what a preset would change, and remember of which form."""
        try:
            plan = self.plan(name, raw)
        except UserError as error:
            return [refusal(error, language), gr.update(visible=False), None]
        can_apply = bool(plan.changes) and plan.preset.fits is not False
        return [said + _told(plan, language), gr.update(visible=can_apply), (plan, raw) if can_apply else None]

    def _on_apply(self, language: str, shown: tuple[Plan, Sequence[Any]] | None, *raw: Any) -> list[Any]:
        """Fill the form with what was shown; where the form has changed since, show what it would be now."""
        if shown is None:
            return [gr.skip()] * (len(self.filling) + len(self._form.inputs))
        plan, seen = shown
        if raw != seen:
            told = notice("warning", escaped(words("presets.has_changed", language)))
            panel, choice, now = self._look(plan.name, language, raw, told)
            return [panel, choice, gr.skip(), now, gr.skip(), *[gr.skip()] * len(self._form.inputs)]
        preset = words(f"presets.{plan.name}", language)
        return self.fill(plan, escaped(words("presets.applied", language, preset=preset, count=len(plan.changes))))

    def _on_undo(self, language: str, applied: Applied | None, *raw: Any) -> list[Any]:
        """Give the fields what they held; one that has been changed since keeps that."""
        if applied is None:
            return [gr.skip()] * (len(self.filling) + len(self._form.inputs))
        fields, held = TrainJob.model_fields, self._form.held(raw)
        back = {
            option: value for option, value in applied.before.items()
            if to_control(fields[option], _valid(option, held[option])) == applied.after[option]
        }  # fmt: skip
        preset = words(f"presets.{applied.name}", language)
        said = escaped(words("presets.undone", language, preset=preset, count=len(back)))
        return [notice("good", said), gr.update(visible=False), gr.update(visible=False), None, None, *self._put(back)]

    def _put(self, held: dict[str, Any]) -> list[Any]:
        """One update an input, after which the controls named here hold this."""
        updates = [gr.update(value=held[name]) if name in held else gr.skip() for name in self._form.controls]
        return updates + [gr.skip()] * (len(self._form.inputs) - len(updates))


def _closed() -> list[Any]:
    return ["", gr.update(visible=False), None]


def _valid(option: str, value: Any) -> Any:
    """A plain value as its option has it; one that is not valid as it is."""
    try:
        return getattr(TrainJob.from_values({option: value}), option)
    except Refused:
        return value


def _is_same(option: str, held: Any, value: Any) -> bool:
    return _valid(option, held) == value


def _told(plan: Plan, language: str) -> str:
    """What would change and why, the main ones first; and whether it fits then."""
    name = words(f"presets.{plan.name}", language)
    about = f'<p class="fine">{escaped(words(f"presets.about.{plan.name}", language))}</p>'
    if plan.preset.fits is False:
        verdict = _verdict(plan, language)
        return notice("warning", f"{escaped(words('presets.too_big', language, preset=name))}<br>{verdict}")
    if not plan.changes:
        return about + notice("good", escaped(words("presets.nothing", language, preset=name)))
    why = plan.preset.why
    main = "".join(
        f"<li>{_change(option, plan, language)}"
        f"<small>{escaped(words(f'presets.why.{why[option].key}', language, **why[option].facts))}</small></li>"
        for option in plan.changes if option in why
    )  # fmt: skip
    rest = [_change(option, plan, language) for option in plan.changes if option not in why]
    others = words("presets.others", language, changes="\0")
    said = escaped(others).replace("\0", "; ".join(rest)) if rest else ""
    return (
        f'<div class="preset-plan">{about}<b>{escaped(words("presets.would_change", language, preset=name))}</b>'
        f'<ul>{main}</ul><p class="fine">{said}</p><p class="fine">{_verdict(plan, language)}</p></div>'
    )


def _verdict(plan: Plan, language: str) -> str:
    if plan.preset.estimate is None:
        return escaped(words("presets.unknown_size", language))
    return marked(verdict_words(Answer(plan.job, plan.preset.estimate, None, (), None, None, None), language))


def _change(option: str, plan: Plan, language: str) -> str:
    """One field: its label, what it holds, what it would hold."""
    old, new = (_shown(option, value, language) for value in (plan.before[option], plan.changes[option]))
    label = escaped(words(f"options.{option}.label", language))
    return f"<span>{label}: <s>{old}</s> → <b>{new}</b></span>"


def _shown(option: str, held: Any, language: str) -> str:
    """What a control holds, as the page writes it."""
    field = TrainJob.model_fields[option]
    if isinstance(held, list):
        return escaped(", ".join(held) or words("choices.none", language))
    if choices_of(field) or (isinstance(held, str) and plain_type(field) is bool):
        return escaped(choice_words(option, held, language))
    if isinstance(held, bool):
        return escaped(words(f"presets.{'on' if held else 'off'}", language))
    if held in (NOTHING, None) or (option == "max_steps" and held == -1):
        return escaped(words("page.unset", language))
    if option in SHARES and _is_share(held):
        return f"{float(held) * 100:g} %"
    return escaped(f"{held:g}" if isinstance(held, float) else held)


def _is_share(held: Any) -> bool:
    try:
        return 0 < float(held) < 1
    except ValueError:
        return False


def _heading(language: str) -> str:
    title, about = (escaped(words(f"presets.{key}", language)) for key in ("label", "help"))
    return f'<h3>{title}</h3><p class="fine">{about}</p>'
