"""A run's title and note, and the two ways to be rid of it: delete what has ended, discard what has not.

Nothing goes before it was said what would go; and only the very run of which it was said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs.delete import Freed, delete, discard, freed, refuse_in_use
from engine.runs.delete_words import asked, done
from engine.runs.folder import Folder
from engine.runs.notes import MOST_IN_NOTE, MOST_IN_TITLE, read_notes, rename, write_note
from engine.words import words
from webui import live
from webui.form import notice, refusal
from webui.frame import FREE, PRIVATE, Frame, Panel
from webui.language import escaped, marked

ON_EDIT = """
const drafts = {};
let focused = null, left = 0;
const remember = (box) => {
  drafts[box.dataset.say] = {run: box.dataset.of, text: box.value, at: box.selectionStart};
};
element.addEventListener('focusin', (event) => { if (event.target.dataset.say) focused = event.target.dataset.say; });
element.addEventListener('focusout', () => { left = performance.now(); });
element.addEventListener('input', (event) => { if (event.target.dataset.say) remember(event.target); });
element.addEventListener('change', (event) => {
  const box = event.target;
  if (box.dataset.say) trigger('select', {act: box.dataset.say, run: box.dataset.of, text: box.value});
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('select', {act: button.dataset.act, run: button.dataset.of});
});
new MutationObserver(() => {
  const wasHere = focused && (element.contains(document.activeElement) || performance.now() - left < 50);
  for (const box of element.querySelectorAll('[data-say]')) {
    const name = box.dataset.say, draft = drafts[name];
    if (!wasHere || name !== focused || (draft && draft.run !== box.dataset.of)) { delete drafts[name]; continue; }
    if (draft && box.value !== draft.text) box.value = draft.text;
    if (document.activeElement !== box) { box.focus(); if (draft) box.setSelectionRange(draft.at, draft.at); }
  }
}).observe(element, {childList: true, subtree: true});
"""
"""What is saved is drawn anew; whoever writes in the other box meanwhile must not notice."""
ON_ANSWER = """
let asker = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button || button.disabled) return;
  for (const each of element.querySelectorAll('[data-act]')) each.disabled = true;
  if (asker?.isConnected) asker.focus();
  trigger('select', {act: button.dataset.act, run: button.dataset.of});
});
element.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') element.querySelector('[data-act=keep]:not(:disabled)')?.click();
});
new MutationObserver(() => {
  const keep = element.querySelector('[data-act=keep]:not(:disabled)');
  if (keep && !element.contains(document.activeElement)) asker = document.activeElement;
  keep?.focus();
}).observe(element, {childList: true, subtree: true});
"""


@dataclass(frozen=True)
class Question:
    """What a visitor has been asked. ``act``: "delete" or "discard"."""

    act: str
    shown: Freed


class RunEdit:
    """The boxes and buttons; which run they are for is said by ``connect``."""

    def __init__(self, frame: Frame, kinds: tuple[str, ...]) -> None:
        self._frame, self._kinds = frame, kinds
        self._boxes = gr.HTML(elem_id="run-edit", js_on_load=ON_EDIT)
        self._question = gr.State(None)

    def ask_here(self) -> None:
        """Build the place in which it is asked whether a run is really to go."""
        self._asked = gr.HTML(elem_id="run-confirm", js_on_load=ON_ANSWER)

    def button(self) -> None:
        """Build the button that discards."""
        self._discard = self._frame.texts.make(
            gr.Button, {"value": "run_edit.discard"}, elem_id="run-discard", interactive=False, min_width=90
        )

    def connect(self, tab: str, chosen: Any, own_notice: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run."""
        language, question = self._frame.language, self._question
        outputs = [self._boxes, self._asked, self._discard, question]
        self._frame.panels.append(Panel(tab, [chosen, question], outputs, self._watched))
        asking = {"outputs": [own_notice, question], "concurrency_limit": None, **PRIVATE}
        self._boxes.select(self._on_edit, [language, question], **asking)
        self._discard.click(self._on_discard, [language, chosen], **asking)
        self._asked.select(_on_answer, [language, question], [own_notice, question, chosen], **FREE)

    def _watched(self, language: str, chosen: str | None, question: Question | None) -> list[Any]:
        folder = live.chosen_run(chosen, *self._kinds)
        progress = live.look(folder)
        if folder is None or progress is None:
            return ["", "", gr.update(interactive=False), None]
        is_of_another = question is not None and question.shown.folder.name != folder.name
        if is_of_another:
            question = None
        can_discard = live.is_active(progress) or progress.status == "queued"
        return [
            _boxes(folder, language), _question(question, language) if question else "",
            gr.update(interactive=can_discard), None if is_of_another else gr.skip(),
        ]  # fmt: skip

    def _on_edit(self, language: str, question: Question | None, event: gr.EventData) -> list[Any]:
        try:
            folder = _exactly(event.run)
            if event.act == "delete":
                return _ask("delete", folder, language)
            kept = (rename if event.act == "title" else write_note)(folder, event.text)
        except UserError as error:
            return [refusal(error, language), question]
        live.forget_list()
        said = (
            ("title_kept" if kept else "title_gone") if event.act == "title" else "note_kept" if kept else "note_gone"
        )
        return [notice("good", escaped(words(f"run_edit.{said}", language, name=folder.name))), question]

    def _on_discard(self, language: str, chosen: str | None) -> list[Any]:
        folder = live.chosen_run(chosen, *self._kinds)
        if folder is None:
            return ["", None]
        return _ask("discard", folder, language)


def _ask(act: str, folder: Folder, language: str) -> list[Any]:
    try:
        if act == "delete":
            refuse_in_use(folder)
        return ["", Question(act, freed(folder))]
    except UserError as error:
        return [refusal(error, language), None]


def _on_answer(language: str, question: Question | None, event: gr.EventData) -> list[Any]:
    """Do it, or leave it; what was asked of another run, or on another page before, is no longer the question."""
    if event.act == "keep" or question is None:
        return ["", None, gr.skip()]
    try:
        if question.shown.folder.name != event.run:
            raise UserError("delete.changed", name=event.run)
        gone = (delete if question.act == "delete" else discard)(question.shown.folder, question.shown)
    except UserError as error:
        return [refusal(error, language), None, gr.skip()]
    finally:
        live.forget_list()
    if gone is None:
        return [notice("good", escaped(words("run_edit.came_back", language, name=event.run))), None, gr.skip()]
    said = "<br>".join(escaped(line) for line in done(gone, language))
    return [notice("good", said), None, None]


def _exactly(name: str) -> Folder:
    """The run of this name and no other: one that merely ends like it, or has it as its title, was not meant.

    Raises:
        UserError: it has been deleted.
    """
    folder = live.exactly(name)
    if folder is None or not folder.state.is_file():
        raise UserError("run_unknown", name=name)
    return folder


def _boxes(folder: Folder, language: str) -> str:
    notes, run = read_notes(folder), escaped(folder.name)
    title, note, hint, delete_word = (
        escaped(words(f"run_edit.{each}", language)) for each in ("title", "note", "title_hint", "delete")
    )
    text = "\n".join(escaped(line) for line in notes.note.split("\n"))
    lines = min(6, 1 + notes.note.count("\n"))
    return (
        f'<div class="run-edit"><label><span>{title}</span><input type="text" data-say="title" data-of="{run}"'
        f' maxlength="{MOST_IN_TITLE}" placeholder="{hint}" value="{escaped(notes.title)}"></label>'
        f'<label><span>{note}</span><textarea data-say="note" data-of="{run}" rows="{lines}"'
        f' maxlength="{MOST_IN_NOTE}">{text}</textarea></label>'
        f'<button type="button" data-act="delete" data-of="{run}">{delete_word}</button></div>'
    )


def _question(question: Question, language: str) -> str:
    first, *others = (marked(line) for line in asked(question.act, question.shown, language))
    run = escaped(question.shown.folder.name)
    yes = escaped(words(_YES[question.act], language))
    keep = escaped(words("run_edit.keep", language))
    told = "".join(f"<li>{line}</li>" for line in others)
    return (
        f'<div class="notice warning run-question" role="alertdialog" aria-labelledby="run-question">'
        f'<p id="run-question"><strong>{first}</strong></p>'
        f"<ul>{told}</ul><div>"
        f'<button type="button" class="bad" data-act="yes" data-of="{run}">{yes}</button>'
        f'<button type="button" data-act="keep" data-of="{run}">{keep}</button></div></div>'
    )


_YES = {"delete": "run_edit.for_good", "discard": "run_edit.discard_for_good"}
