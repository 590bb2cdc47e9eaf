"""A list of prompts, put to the loaded model and to any of its adapters with one seed: a table of prompts and answers.

Every answer is appended to a file in the folder of the chat's run before it is shown.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.runs import chat
from engine.runs.folder import Folder
from engine.runs.record import append_line
from engine.runs.sides import BASE, side_name
from engine.words import words
from webui.access.turns import ANSWERS
from webui.chat_room import READY_IN_S
from webui.chat_sides import asked_of, base_alone, refuse_strangers, side_choices, stop_answer
from webui.form import Form, refusal
from webui.frame import FREE, QUICK, Frame
from webui.language import escaped

FILE = "prompts-{moment}.jsonl"


class ChatPrompts:
    def __init__(self, frame: Frame, form: Form, notice_box: Any) -> None:
        self._frame, self._form, self._notice = frame, form, notice_box
        make = frame.texts.make
        with make(gr.Accordion, {"label": "prompts.label"}, open=False, elem_id="prompts"):
            self._prompts = make(
                gr.Textbox, {"label": "prompts.prompts", "info": "prompts.prompts_help"}, lines=4, max_lines=12,
                elem_id="prompts-text",
            )  # fmt: skip
            self._sides = make(
                gr.Dropdown, {"label": "prompts.sides", "info": "prompts.sides_help", "choices": base_alone},
                value=[BASE], multiselect=True, elem_id="prompts-sides",
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self._ask = make(
                    gr.Button, {"value": "prompts.ask"}, variant="primary", elem_id="prompts-ask", min_width=120
                )
                self._stop = make(gr.Button, {"value": "page.buttons.stop"}, elem_id="prompts-stop", min_width=90)
            self._table = gr.HTML(elem_id="prompts-table", js_on_load=None)

    def connect(self) -> None:
        language, answer_id = self._frame.language, gr.State("")
        self._sides.focus(
            lambda language, chosen: gr.update(choices=side_choices(language), value=chosen), [language, self._sides],
            self._sides, **QUICK,
        )  # fmt: skip
        self._ask.click(
            self._on_ask, [language, self._prompts, self._sides, *self._form.inputs],
            [self._table, self._notice, self._ask, answer_id], trigger_mode="once", **FREE,
        )  # fmt: skip
        self._stop.click(stop_answer, [language, answer_id], self._notice, **QUICK)

    def _on_ask(
        self, request: gr.Request, language: str, text: str, sides: list[str], *raw: Any
    ) -> Iterator[list[Any]]:
        """Stream the table as it fills; what is answered before a failure or a stop stays in it."""
        prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        answers: dict[tuple[str, str], str] = {}
        answer_id = secrets.token_hex(8)
        yield [_table(prompts, sides, answers, language), "", gr.update(interactive=False), answer_id]
        said = ""
        try:
            folder = _ready()
            refuse_strangers(sides, language)
            file = folder.path / FILE.format(moment=time.strftime("%Y-%m-%d-%H-%M-%S"))
            with ANSWERS.taken(request):
                for side, prompt, answer, is_stopped in self._answered(folder, prompts, sides, answer_id, raw):
                    answers[prompt, side] = answer
                    append_line(file, {"prompt": prompt, "side": side, "answer": answer, "is_cut_off": is_stopped})
                    done = {"done": len(answers), "total": len(prompts) * len(sides), "side": _name(side, language)}
                    said = words("page.chat.stopped" if is_stopped else "chat.asked", language, **done)
                    yield [_table(prompts, sides, answers, language), _fine(said), gr.skip(), gr.skip()]
            said = _fine(f"{said} {words('chat.answers_written', language, path=file)}") if answers else ""
        except UserError as error:
            said = refusal(error, language)
        except Exception:
            yield [gr.skip(), gr.skip(), gr.update(interactive=True), gr.skip()]
            raise
        yield [gr.skip(), said, gr.update(interactive=True), gr.skip()]

    def _answered(
        self, folder: Folder, prompts: Sequence[str], sides: Sequence[str], answer_id: str, raw: tuple
    ) -> Iterator[tuple[str, str, str, bool]]:
        """Side, prompt, answer, and whether it was stopped, which ends the list. Raises: UserError."""
        job = self._form.job(raw).job
        asked = asked_of(job)
        system = [{"role": "system", "content": job.system}] if job.system else []
        for prompt in prompts:
            for side in sides:
                messages = [*system, {"role": "user", "content": prompt}]
                given = {"side": side, "system": job.system, **asked}
                pieces = list(chat.answer(folder, messages, answer_id, **given))
                is_stopped = pieces[-1].finish_reason == "stopped"
                yield side, prompt, "".join(piece.text for piece in pieces), is_stopped
                if is_stopped:
                    return


def _ready() -> Folder:
    """The chat's worker, once it can answer. Raises: UserError."""
    folder = chat.loaded()
    if folder is None:
        raise UserError("chat.ended")
    chat.wait_until_ready(folder, READY_IN_S)
    return folder


def _table(prompts: Sequence[str], sides: Sequence[str], answers: dict[tuple[str, str], str], language: str) -> str:
    if not prompts:
        return f'<p class="fine">{escaped(words("prompts.none", language))}</p>'
    head = "".join(f'<th scope="col">{escaped(_name(side, language))}</th>' for side in sides)
    rows = ""
    for prompt in prompts:
        cells = "".join(f"<td>{escaped(answers.get((prompt, side), '…'))}</td>" for side in sides)
        rows += f'<tr><th scope="row">{escaped(prompt)}</th>{cells}</tr>'
    corner = f'<th scope="col">{escaped(words("ladder.prompt", language))}</th>'
    table = f"<table><thead><tr>{corner}{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroller ladder">{table}</div>'


def _name(side: str, language: str) -> str:
    return words("sides.base", language) if side == BASE else side_name(side)


def _fine(text: str) -> str:
    return f'<p class="fine">{escaped(text)}</p>'
