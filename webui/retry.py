"""The button under a run's error that goes on with it in less memory: one click, in each card that shows a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.command import as_text
from engine.runs.folder import Folder
from engine.runs.progress import Progress
from engine.runs.queue import submit
from engine.runs.retry import OUT_OF_MEMORY, retried_job
from engine.words import words
from webui import live
from webui.form import notice, refusal
from webui.frame import FREE, Frame
from webui.language import escaped
from webui.queue import queued_notice

ON_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-retry]');
  if (button) { button.disabled = true; trigger('select', {run: button.dataset.retry}); }
});
"""


def with_retry(card: str, folder: Folder | None, progress: Progress | None, language: str) -> str:
    """A run's card, and under it the button, where memory was what the run lacked."""
    error = progress.error if progress else None
    if folder is None or not error or error["key"] not in OUT_OF_MEMORY or live.is_active(progress):
        return card
    label = escaped(words("page.buttons.retry", language))
    return f'{card}<button type="button" class="retry" data-retry="{escaped(folder.name)}">{label}</button>'


def connect_retry(frame: Frame, card: Any, own_notice: Any, shown: Any, trains_notice: Any = None) -> None:
    """Let the button in a card work.

    Args:
        card: a ``gr.HTML`` with ``js_on_load=ON_CLICK`` that shows what ``with_retry`` gives.
        own_notice: where it is said why it cannot be done.
        shown: the ``gr.State`` with the run that the Train tab watches.
        trains_notice: of the Train tab, which is opened and says what was changed; None: the card stands there.
    """
    outputs = [own_notice, shown, *([trains_notice, frame.tabs, frame.tab] if trains_notice else [])]

    def on_click(language: str, event: gr.EventData) -> Sequence[Any]:
        skipped = [gr.skip()] * (len(outputs) - 1)
        folder = live.chosen_run(event.run, "train")
        if folder is None or folder.name != event.run:  # deleted meanwhile
            return [notice("error", escaped(words("page.runs.none", language))), *skipped]
        try:
            retry = retried_job(folder)
            waiting = queued_notice(submit(retry.job, language), language)
        except UserError as error:
            return [refusal(error, language), *skipped]
        live.forget_list()
        changes = ", ".join(f"{name}: {as_text(value)}" for name, value in retry.changes.items())
        said = waiting + notice("good", escaped(words("page.retrying", language, changes=changes)))
        if retry.job.kind == "eval":
            return [said, *skipped[:-2], gr.Tabs(selected="eval"), "eval"] if trains_notice else [said, gr.skip()]
        return ["", None, said, gr.Tabs(selected="train"), "train"] if trains_notice else [said, None]

    card.select(on_click, frame.language, outputs, trigger_mode="once", **FREE)
