"""The row above a form: save its settings as a file, load such a file into it, put all back to the defaults; and Undo.

A file is what ``python app.py KIND FILE.yaml`` reads. Loading is one answer of the server that sets every control, or
none: a file that cannot be read changes nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import Problem, Refused, UserError
from engine.options.command import described_job, file_text, read_options_file
from engine.options.reference import in_our_words
from engine.words import words
from webui.access.allowed import allowed_values
from webui.controls import takes, to_control
from webui.curve_view import TAKE
from webui.form import Form, notice, problems_in, refusal, warnings_notice
from webui.frame import FREE, QUICK, Frame
from webui.kept import label_of
from webui.language import escaped, marked

MOST_NAMED = 12
NOTHING_SAID = (None, "", [])


class Settings:
    """Builds the row here."""

    def __init__(self, frame: Frame, form: Form) -> None:
        self._frame, self._form, self._kind = frame, form, form.job_type.kind
        make, name = frame.texts.make, f"{self._kind}-settings"
        small: dict[str, Any] = {"size": "sm", "min_width": 60}
        with gr.Row(elem_classes="buttons settings"):
            self._save = make(gr.Button, {"value": "settings.save"}, elem_id=f"{name}-save", **small)
            self._load = make(
                gr.UploadButton, {"label": "settings.load"}, file_types=[".yaml", ".yml", ".json"],
                elem_id=f"{name}-load", **small,
            )  # fmt: skip
            self._reset = make(gr.Button, {"value": "settings.reset"}, elem_id=f"{name}-reset", **small)
            self._undo = make(gr.Button, {"value": "settings.undo"}, elem_id=f"{name}-undo", visible=False, **small)
        self._file = make(
            gr.DownloadButton, {"label": "settings.save"}, elem_id=f"{name}-file", elem_classes="out-of-sight"
        )
        self._before = gr.State(None)

    def connect(self, told: Any) -> None:
        """Args: told: the box in which the tab says what happened."""
        language, inputs = self._frame.language, self._form.inputs
        self._frame.forms[self._kind] = (self._form, told)
        changed = [told, self._before, self._undo, *inputs]
        self._save.click(
            self._on_save, [language, *inputs], [self._file, told, *inputs], trigger_mode="once", **FREE
        ).success(None, js=TAKE % f"{self._kind}-settings-file")  # fmt: skip
        self._load.upload(self._on_load, [language, self._load, *inputs], changed, **QUICK)
        self._reset.click(self._on_reset, [language, *inputs], changed, trigger_mode="once", **QUICK)
        self._undo.click(self._on_undo, [language, self._before], changed, trigger_mode="once", **QUICK)

    def _on_save(self, language: str, *raw: Any) -> list[Any]:
        try:
            job, warnings = self._form.job(raw)
        except UserError as error:
            return [None, refusal(error, language), *self._form.notes(problems_in(error), language)]
        made = time.strftime("%Y-%m-%d-%H-%M-%S")
        path = Path(tempfile.mkdtemp(prefix="lathe-settings-")) / f"{self._kind}_{made}.yaml"
        path.write_text(file_text(job), encoding="utf-8")
        return [str(path), warnings_notice(warnings, language), *self._form.notes((), language)]

    def _on_load(self, language: str, path: str | None, *raw: Any) -> list[Any]:
        if not path:
            return [gr.skip()] * (3 + len(raw))
        try:
            updates, told = self._loaded(Path(path), language)
        except UserError as error:
            return [refusal(_by_name_alone(error), language), *[gr.skip()] * (2 + len(raw))]
        return [told, list(raw), gr.update(visible=True), *updates]

    def _loaded(self, path: Path, language: str) -> tuple[list[Any], str]:
        """One update an input, and what is said of it. Raises: UserError, for a file that cannot be taken."""
        form = self._form
        asked = read_options_file(path)
        allowed_values(form.job_type, in_our_words(form.job_type, asked))
        job, problems = described_job(form.job_type, asked)
        wrong = [
            Problem("not_a_choice", name, {"option": name, "value": getattr(job, name), "choices": _offered(each)})
            for name, each in form.controls.items()
            if not takes(each, to_control(form.job_type.model_fields[name], getattr(job, name)))
        ]
        if wrong:
            raise Refused(wrong)
        updates, refused = form.filled_from(job)
        told = notice("good", marked(words("settings.loaded", language, file=path.name)))
        if refused:
            told += notice("warning", marked(words("page.not_cloned", language, options=", ".join(refused))))
        hindrances = [problem for problem in problems if not problem.is_warning]
        if hindrances:
            told += refusal(Refused(hindrances), language)
        return updates, told + warnings_notice([each for each in problems if each.is_warning], language)

    def _on_reset(self, language: str, *raw: Any) -> list[Any]:
        own = self._form.own
        defaults = {each: (name, each.value) for name, each in own.items()}
        names, updates = [], []
        for each, value in zip(self._form.inputs, raw, strict=True):
            name, default = defaults.get(each, ("", value))
            if value == default or (value in NOTHING_SAID and default in NOTHING_SAID):
                updates.append(gr.skip())
            else:
                names.append(name)
                updates.append(gr.update(value=default))
        if not names:
            return [
                notice("good", escaped(words("settings.nothing_to_reset", language))),
                *[gr.skip()] * (2 + len(raw)),
            ]
        said = words("settings.done", language, count=len(names), options=_listed(names, language))
        return [notice("good", escaped(said)), list(raw), gr.update(visible=True), *updates]

    def _on_undo(self, language: str, before: list[Any] | None) -> list[Any]:
        """What the form said before the last change of the whole."""
        if before is None:  # the server was restarted meanwhile
            return [gr.skip(), None, gr.update(visible=False), *[gr.skip()] * len(self._form.inputs)]
        said = notice("good", escaped(words("settings.undone", language)))
        return [said, None, gr.update(visible=False), *[gr.update(value=value) for value in before]]


def _listed(names: Iterable[str], language: str) -> str:
    labels = [label_of(name, language) for name in names]
    return ", ".join(labels[:MOST_NAMED]) + (", …" if len(labels) > MOST_NAMED else "")


def _offered(made: Any) -> str:
    return ", ".join(str(value) for _, value in made.choices if value)


def _by_name_alone(error: UserError) -> UserError:
    """The visitor knows the file by its name; where an upload lies says nothing to anybody."""
    if "path" not in error.facts:
        return error
    return UserError(error.key, **{**error.facts, "path": Path(error.facts["path"]).name})
