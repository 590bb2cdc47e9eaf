"""Below a run: the same again with another value of an option, or with each of several values of one or two options.

What may be changed is what the Train tab's form offers; so no option is set here that the page keeps from its visitors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import gradio as gr

from engine.errors import Problem, UserError
from engine.options.base import allows_none, choices_of, plain_type
from engine.options.command import as_text
from engine.options.jobs import TrainJob
from engine.options.rules import problems_of
from engine.runs.folder import Folder
from engine.runs.queue import submit_all, waiting
from engine.runs.sweep import ANEW, job_of, sweep_jobs, values_of
from engine.words import words
from webui import live
from webui.access.allowed import allowed_values
from webui.controls import NOTHING
from webui.form import notice, refusal, warnings_notice
from webui.frame import FREE, Frame, Panel
from webui.language import escaped, help_of, marked

FIRST = "learning_rate"
"""What is varied most often."""
MOST_PLANNED, MOST_MADE = 12, 4
"""So many of the runs to be made, and of those just made, are named; the queue's panel shows the rest."""


class Again:
    """The two options with their values, what they make, and the button."""

    def __init__(self, frame: Frame, offered: Iterable[str]) -> None:
        """Args: offered: names of the options that the page lets a visitor set."""
        self._frame = frame
        top = frame.top.controls  # the model and how it is loaded: seldom varied, so they come last
        self._names = sorted((name for name in offered if name not in ANEW), key=lambda name: name in top)
        make = frame.texts.make
        with make(gr.Accordion, {"label": "page.again.title"}, open=False, elem_id="run-again", elem_classes="again"):
            self._pairs = [self._pair("option", FIRST), self._pair("second", NOTHING)]
            self._plan = gr.HTML(elem_id="again-plan", js_on_load=None)
            self._queue = gr.Button("", size="sm", elem_id="again-queue", interactive=False)

    def _pair(self, which: str, value: str) -> tuple[Any, Any]:
        """An option, and beside it the box for its values."""
        make = self._frame.texts.make
        with gr.Row(elem_classes="again-pair"):
            option = make(
                gr.Dropdown,
                {"label": f"page.again.{which}", "choices": lambda language: self._choices(which, language)},
                value=value, elem_id=f"again-{which}", min_width=240,
            )  # fmt: skip
            values = make(
                gr.Textbox, {"label": "page.again.values"}, value="", max_lines=1, elem_id=f"again-{which}-values",
                min_width=240,
            )  # fmt: skip
        return option, values

    def _choices(self, which: str, language: str) -> list[tuple[str, str]]:
        none = [(words("page.again.no_second", language), NOTHING)] if which == "second" else []
        return none + [(f"{words(f'options.{name}.label', language)} · {name}", name) for name in self._names]

    def connect(
        self, tab: str, chosen: Any, run_of: Callable[[str | None], Folder | None], own_notice: Any, shown: Any,
        trains_notice: Any,
    ) -> None:  # fmt: skip
        """Connect it with a run.

        Args:
            chosen: the ``gr.State`` with the name of the run.
            run_of: which run that is.
            shown: the ``gr.State`` with the run that the Train tab watches, which is opened.
        """
        frame, self._run_of = self._frame, run_of
        inputs = [chosen, *(each for pair in self._pairs for each in pair)]
        outputs = [self._plan, self._queue, *inputs[1:]]
        frame.panels.append(Panel(tab, inputs, outputs, self._watched))
        self._queue.click(
            self._on_queue, [frame.language, *inputs], [own_notice, shown, trains_notice, frame.tabs, frame.tab],
            trigger_mode="once", **FREE,
        )  # fmt: skip

    def _watched(self, language: str, chosen: str | None, *said: str | None) -> list[Any]:
        folder = self._run_of(chosen)
        present: TrainJob | None = None
        jobs: list[TrainJob] = []
        try:
            changed_ns = _changed_ns(folder)
            present, wanted = _job(folder, changed_ns), self._wanted(said)
            jobs = _jobs(folder, changed_ns, wanted)
            plan = _plan(jobs, [name for name, _ in wanted], language)
            if not wanted:
                plan = marked(words("page.again.write", language, name=folder.name))
        except UserError as error:
            plan = refusal(error, language)
        kind = {0: "none", 1: "one"}.get(len(jobs))
        label = words(f"page.again.queue_{kind}" if kind else "page.again.queue", language, count=len(jobs))
        notes = [note for name in said[::2] for note in _notes(name, present, language)]
        return [plan, gr.update(value=label, interactive=bool(jobs)), *notes]

    def _on_queue(self, request: gr.Request, language: str, chosen: str | None, *said: str | None) -> list[Any]:
        folder = self._run_of(chosen)
        try:
            jobs = _jobs(folder, _changed_ns(folder), self._wanted(said))
            if not jobs:
                return [gr.skip()] * 5  # nothing is asked for; the button stands out of use
            made = submit_all(jobs, language, token=request.session_hash)
        except UserError as error:
            return [refusal(error, language), *[gr.skip()] * 4]
        live.forget_list()
        return ["", None, _made_notice(folder, made, language), gr.Tabs(selected="train"), "train"]

    def _wanted(self, said: tuple[str | None, ...]) -> tuple[tuple[str, str], ...]:
        """Each option with its values as they were typed, where any were.

        Raises:
            UserError: values for no option, the same option twice, or one that is not offered.
        """
        both = zip(said[::2], said[1::2], strict=True)
        pairs = tuple((name, text) for name, text in both if text and text.strip())
        names = [name for name, _ in pairs]
        if not all(names):
            raise UserError("sweep.which_option", values=next(text for name, text in pairs if not name))
        strange = [name for name in names if name not in self._names]
        if strange:
            raise UserError("unknown_option", option=strange[0])
        if len(set(names)) < len(names):
            raise UserError("sweep.same_option", option=names[0])
        return pairs


def _changed_ns(folder: Folder | None) -> int:
    """When a run's job was written. Raises: UserError, if there is no run."""
    if folder is None:
        raise UserError("sweep.no_run")
    try:
        return folder.job.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # ``job_of`` says so


@lru_cache(maxsize=64)
def _job(folder: Folder, changed_ns: int) -> TrainJob:
    return job_of(folder)


@lru_cache(maxsize=64)
def _jobs(folder: Folder, changed_ns: int, wanted: tuple[tuple[str, str], ...]) -> list[TrainJob]:
    """The jobs to be made; none, where no values are given. Every tick of the page asks, so they are kept.

    Raises:
        UserError: what stands in their way.
    """
    values = {name: values_of(text) for name, text in wanted}
    for name, several in values.items():
        for value in several:
            allowed_values(TrainJob, {name: value})
    return sweep_jobs(_job(folder, changed_ns), values) if values else []


def _plan(jobs: list[TrainJob], names: list[str], language: str) -> str:
    """How many runs there will be, and which; and which of the options would change nothing."""
    count = words("page.again.makes_one" if len(jobs) == 1 else "page.again.makes", language, count=len(jobs))
    shown = []
    for job in jobs[:MOST_PLANNED]:
        values = job.values()
        shown.append(" · ".join(f"{name} {as_text(values.get(name))}" for name in names))
    listed = "".join(f"<li><code>{escaped(each)}</code></li>" for each in shown) + _more(
        len(jobs) - MOST_PLANNED, language
    )
    warnings: dict[str | None, Problem] = {}
    for problem in (problem for job in jobs for problem in problems_of(job)):
        if problem.is_warning and problem.option in names:
            warnings.setdefault(problem.option, problem)
    return f"<b>{escaped(count)}</b><ul>{listed}</ul>{warnings_notice(warnings.values(), language)}"


def _notes(name: str | None, present: TrainJob | None, language: str) -> list[Any]:
    """What stands below an option, and below and in the box for its values."""
    if name not in TrainJob.model_fields:
        return [gr.update(info=None), gr.update(info=None, placeholder="")]
    field = TrainJob.model_fields[name]
    choices = choices_of(field) or (("true", "false") if plain_type(field) is bool else ())
    choices += (None,) if choices and allows_none(field) else ()
    how = words("page.again.how_lists" if plain_type(field) is tuple else "page.again.how", language)
    if choices:
        how = words("page.again.how_choices", language, choices=", ".join(f"`{as_text(each)}`" for each in choices))
    now = as_text(present.values().get(name)) if present else ""
    return [
        gr.update(info=help_of(name, language)),
        gr.update(info=how, placeholder=now),
    ]


def _made_notice(source: Folder, made: list[Folder], language: str) -> str:
    """The names of the new runs, and which number each has in the queue."""
    places = {each.folder.path.resolve(): place for place, each in enumerate(waiting(), start=1)}
    rows = []
    for folder in made[:MOST_MADE]:
        place = places.get(folder.path.resolve())
        where = words("page.again.place", language, place=place) if place else words("page.again.begun", language)
        rows.append(f"<li>{escaped(folder.name)}: {escaped(where)}</li>")
    said = escaped(words("page.again.queued", language, count=len(made), name=source.name))
    return notice("good", f"{said}<ul>{''.join(rows)}{_more(len(made) - MOST_MADE, language)}</ul>")


def _more(hidden: int, language: str) -> str:
    return f"<li>{escaped(words('page.again.more', language, count=hidden))}</li>" if hidden > 0 else ""
