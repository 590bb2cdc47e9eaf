"""The controls of one job on one tab: read them, refuse with notes beside the fields, show what has an effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from engine.errors import Problem, Refused, UserError
from engine.options.base import Options
from engine.options.command import Parsed, job_from
from engine.options.option import about
from engine.words import has_words, words
from webui.controls import control, from_control
from webui.language import Texts, escaped, marked

SHOW_FIRST_PROBLEM = """
() => setTimeout(() => {
  const note = [...document.querySelectorAll('.info-text strong')].find((each) => each.offsetParent);
  note?.closest('.block').scrollIntoView({block: 'center', behavior: 'smooth'});
}, 150)
"""
"""After ``Form.notes``: the first field with a note comes into view."""


class Form:
    """A job's options as controls, those of the top bar included."""

    def __init__(self, job_type: type[Options], texts: Texts, prefix: str = "") -> None:
        self.job_type = job_type
        self.controls: dict[str, Any] = {}
        self._texts = texts
        self._prefix = prefix
        self._sections: list[tuple[Any, list[str]]] = []

    def add(self, name: str, **properties: Any) -> Any:
        """Place the control of an option here."""
        made = control(name, self.job_type.model_fields[name], self._texts, self._prefix, **properties)
        self.controls[name] = made
        return made

    def adopt(self, controls: dict[str, Any]) -> None:
        """Take over controls that stand elsewhere on the page, as far as the job has these options."""
        self.controls.update({name: each for name, each in controls.items() if name in self.job_type.model_fields})

    def section(self, container: Any, names: Iterable[str]) -> None:
        """Remember that a container with a heading is worth showing only while one of these options is."""
        self._sections.append((container, list(names)))

    @property
    def inputs(self) -> list[Any]:
        return list(self.controls.values())

    def values(self, raw: Sequence[Any]) -> dict[str, Any]:
        """Plain values by option, as the inputs hold them; what another option switches off is left out."""
        fields = self.job_type.model_fields
        read = {
            name: from_control(fields[name], value) for name, value in zip(self.controls, raw, strict=True)
        }  # fmt: skip
        return {name: value for name, value in read.items() if self._has_effect(name, read)}

    def job(self, raw: Sequence[Any], **further: Any) -> Parsed:
        """The job that the controls describe. Raises: Refused, with every problem."""
        return job_from(self.job_type, {**self.values(raw), **further})

    def notes(self, problems: Iterable[Problem], language: str) -> list[dict[str, Any]]:
        """One update an input: its problem in red where it has one, its help where it has none."""
        texts: dict[str, str] = {}
        for problem in problems:
            if problem.option:
                texts[problem.option] = f"{texts.get(problem.option, '⚠')} {problem.text(language).strip()}"
        return [  # the line below a field is Markdown; page.css shows bold there, and the field above it, in red
            gr.update(info=f"**{texts[name]}**" if name in texts else self._texts.of(each, language)["info"])
            for name, each in self.controls.items()
        ]

    @property
    def switches(self) -> list[Any]:
        """The controls on whose values the visibility of others depends."""
        deciding = {other for name in self.controls for other in self._when(name)}
        return [each for name, each in self.controls.items() if name in deciding]

    @property
    def switched(self) -> list[Any]:
        """What ``visibility`` updates."""
        return [self.controls[name] for name in self.controls if self._when(name)] + [s[0] for s in self._sections]

    def visibility(self, *raw: Any) -> list[dict[str, Any]]:
        read = dict(zip(self.controls, raw, strict=True))
        seen = {name: self._has_effect(name, read) for name in self.controls}
        shown = [seen[name] for name in self.controls if self._when(name)]
        shown += [any(seen[name] for name in names) for _, names in self._sections]
        return [gr.update(visible=is_seen) for is_seen in shown]

    def show_initial_visibility(self) -> None:
        """Hide, before the page is served, what the defaults switch off."""
        raw = [each.value for each in self.controls.values()]
        for component, update in zip(self.switched, self.visibility(*raw), strict=True):
            component.visible = update["visible"]

    def _when(self, name: str) -> dict[str, tuple]:
        when = about(self.job_type.model_fields[name], "when")
        return {other: allowed for other, allowed in when.items() if other in self.controls}

    def _has_effect(self, name: str, read: dict[str, Any]) -> bool:
        return all(read[other] in allowed for other, allowed in self._when(name).items())


def notice(kind: str, text: str) -> str:
    """A coloured box with one message. ``kind``: "error", "warning" or "good"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{text}</div>'


def refusal(error: UserError, language: str) -> str:
    """A notice of all that stands in the way, each problem by the label of its field."""
    if not isinstance(error, Refused):
        return notice("error", marked(error.text(language)))
    lines = [f"<li>{_labelled(problem, language)}</li>" for problem in error.problems]
    heading = escaped(words("page.refused", language))
    return notice("error", f"<strong>{heading}</strong><ul>{''.join(lines)}</ul>")


def warnings_notice(warnings: Iterable[Problem], language: str) -> str:
    lines = [_labelled(problem, language) for problem in warnings]
    return notice("warning", "<br>".join(lines)) if lines else ""


def problems_in(error: UserError) -> tuple[Problem, ...]:
    return error.problems if isinstance(error, Refused) else ()


def _labelled(problem: Problem, language: str) -> str:
    text = marked(problem.text(language))
    key = f"options.{problem.option}.label"
    return f"<b>{escaped(words(key, language))}</b> – {text}" if problem.option and has_words(key) else text
