"""The controls of one job on one tab: read them, refuse with notes beside the fields, show what has an effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
import yaml

from engine.errors import Problem, Refused, UserError
from engine.options.base import Options
from engine.options.command import Parsed, job_from
from engine.options.option import about
from engine.options.reference import in_our_words
from engine.options.yaml_text import read_options, write_yaml
from engine.words import has_words, words
from webui.access.allowed import allowed_values
from webui.controls import control, from_control, to_control
from webui.frame import QUICK
from webui.language import Texts, escaped, in_red, marked

FURTHER = "further_options"
"""Stands for the box with options that have no control, where a problem is told."""
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
        self._further: Any = None
        self._shared: set[str] = set()

    def add(self, name: str, **properties: Any) -> Any:
        """Place the control of an option here."""
        made = control(name, self.job_type.model_fields[name], self._texts, self._prefix, **properties)
        self.controls[name] = made
        return made

    def adopt(self, controls: dict[str, Any], owns: bool = False) -> None:
        """Take over controls that stand elsewhere on the page, as far as the job has these options.

        Args:
            owns: they belong to this form, and the others share them.
        """
        adopted = {name: each for name, each in controls.items() if name in self.job_type.model_fields}
        self.controls.update(adopted)
        self._shared.update(() if owns else adopted)

    def add_further(self) -> None:
        """Place a box for the options that have no control: YAML, one a line."""
        shown = {"label": "page.further.label", "info": "page.further.help"}
        self._further = self._texts.make(
            gr.Textbox, shown, placeholder="adam_beta2: 0.98", lines=2, max_lines=12, elem_id=FURTHER
        )

    def section(self, container: Any, names: Iterable[str]) -> None:
        """Remember that a container with a heading is worth showing only while one of these options is."""
        self._sections.append((container, list(names)))

    @property
    def own(self) -> dict[str, Any]:
        """The controls that no other form owns, by option; ``FURTHER`` for the box with further options."""
        named = zip([*self.controls, FURTHER], self.inputs, strict=False)
        return {name: each for name, each in named if name not in self._shared}

    @property
    def inputs(self) -> list[Any]:
        return [*self.controls.values(), *([self._further] if self._further is not None else [])]

    def values(self, raw: Sequence[Any]) -> dict[str, Any]:
        """Plain values by option, as the inputs hold them; what another option switches off is left out.

        Raises:
            Refused: the box with further options cannot be read, or holds what does not belong there; or a path leads
                to where this page does not go.
        """
        read = self.held(raw)
        kept = {name: value for name, value in read.items() if self._has_effect(name, read)}
        said = kept | (self._read_further(raw[-1] or "") if self._further is not None else {})
        return allowed_values(self.job_type, said)

    def job(self, raw: Sequence[Any], **further: Any) -> Parsed:
        """The job that the controls describe. Raises: Refused, with every problem."""
        return job_from(self.job_type, {**self.values(raw), **further})

    def notes(self, problems: Iterable[Problem], language: str) -> list[dict[str, Any]]:
        """One update an input: its problem in red where it has one, its help where it has none."""
        texts: dict[str, str] = {}
        for problem in problems:
            if problem.option:
                texts[problem.option] = f"{texts.get(problem.option, '⚠')} {problem.text(language).strip()}"
        updates = []
        for name, each in zip([*self.controls, FURTHER], self.inputs, strict=False):
            option = name if name in self.controls else ""
            help_line = self._texts.of(each, language)["info"]
            updates.append(gr.update(info=in_red(texts[name], option) if name in texts else help_line))
        return updates

    def held(self, raw: Sequence[Any]) -> dict[str, Any]:
        """Plain values by option, also of those that another option switches off; not validated."""
        fields = self.job_type.model_fields
        return {name: from_control(fields[name], value) for name, value in self._by_name(raw).items()}

    def filled(self, values: dict[str, Any]) -> list[Any]:
        """One update an input, which gives the options that are named here their values."""
        fields = self.job_type.model_fields
        updates = [
            gr.update(value=to_control(fields[name], values[name])) if name in values else gr.skip()
            for name in self.controls
        ]
        return updates + [gr.skip()] * (len(self.inputs) - len(updates))

    def filled_from(self, job: Options) -> tuple[list[Any], list[str]]:
        """One update an input, after which the form says what a job says; and the options that it may not take over.

        What has no control goes into the box with further options, if the form has one.
        """
        plain, defaults = job.values(), self.job_type().values()
        names = [name for name in plain if name not in self.controls and plain[name] != defaults.get(name)]
        refused = [name for name in names if self._further is None or self._is_owners(name)]
        further = {name: plain[name] for name in names if name not in refused}
        updates = self.filled({name: getattr(job, name) for name in self.controls})
        if self._further is not None:
            updates[-1] = write_yaml(further).strip() if further else ""
        return updates, refused

    def connect_visibility(self) -> None:
        """Hide, before the page is served, what the defaults switch off; later show what has come to have an effect.

        The browser is told only what has changed: each change of what is seen costs it a walk through the whole page.
        """
        switched = {name: each for name, each in self.controls.items() if self._when(name)}
        deciding = {other for name in switched for other in self._when(name)}
        places = [*switched.values(), *(container for container, _ in self._sections)]

        def seen_of(raw: Sequence[Any]) -> list[bool]:
            read = self._by_name(raw)
            effective = {name: self._has_effect(name, read) for name in self.controls}
            shown = [effective[name] for name in switched]
            return shown + [any(effective[name] for name in names) for _, names in self._sections]

        first = seen_of([each.value for each in self.inputs])
        for place, is_seen in zip(places, first, strict=True):
            place.visible = is_seen
        before = gr.State(first)

        def show(before: list[bool], *raw: Any) -> list[Any]:
            now = seen_of(raw)
            updates = [
                gr.skip() if was == is_seen else gr.update(visible=is_seen)
                for was, is_seen in zip(before, now, strict=True)
            ]
            return [now, *updates]

        gr.on(
            [self.controls[name].change for name in self.controls if name in deciding], show, [before, *self.inputs],
            [before, *places], trigger_mode="always_last", **QUICK,
        )  # fmt: skip

    def _by_name(self, raw: Sequence[Any]) -> dict[str, Any]:
        """What the controls hold, without the box of further options."""
        return dict(zip(self.controls, raw[: len(self.controls)], strict=True))

    def _read_further(self, text: str) -> dict[str, Any]:
        try:
            content = read_options(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            facts = {"line": mark.line + 1 if mark else 1, "detail": getattr(error, "problem", None) or str(error)}
            raise Refused([Problem("further.not_yaml", FURTHER, facts)]) from error
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise Refused([Problem("further.no_mapping", FURTHER)])
        asked = in_our_words(self.job_type, {str(name).replace("-", "_"): value for name, value in content.items()})
        problems = [Problem("further.has_field", FURTHER, {"option": name}) for name in asked if name in self.controls]
        problems += [Problem("further.owners", FURTHER, {"option": name}) for name in asked if self._is_owners(name)]
        if problems:
            raise Refused(problems)
        return asked

    def _is_owners(self, name: str) -> bool:
        """Whether only who types commands on this machine may set it."""
        field = self.job_type.model_fields.get(name)
        return field is not None and name not in self.controls and about(field, "level") == "owner"

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
