"""The conversation of the Chat tab: ask, stop, ask anew, change, take back, keep, load; it outlives its browser."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.generation import Generation
from engine.runs import chat
from engine.runs.talks import Answer, Talk, check_name, forget_talk, is_silent, new_name, read_talk, write_talk
from engine.words import words
from webui.access.turns import ANSWERS
from webui.curve_view import TAKE
from webui.form import Form, notice, refusal
from webui.frame import FREE, QUICK, Frame
from webui.language import escaped
from webui.talk import WAITING, from_file, question_before, shown, spoken, text_of, to_file, told
from webui.talk_figures import context_of, figures

READY_IN_S = 600.0
LOOK_S = 0.4
FOCUS_ON_QUESTION = "() => document.querySelector('#chat-question textarea')?.focus()"


class ChatRoom:
    def __init__(self, frame: Frame, form: Form, notice_box: Any, memory: Any) -> None:
        """Args: form: of the tab, with what is asked beside the question; notice_box: where messages are shown."""
        self._frame, self._form, self._notice = frame, form, notice_box
        make = frame.texts.make
        self._memory = memory
        self._talk = make(
            gr.Chatbot, {"label": "page.chat.talk", "placeholder": "page.chat.placeholder"},
            elem_id="chat-talk", height="max(320px, calc(100vh - 500px))", sanitize_html=True, allow_tags=False,
            buttons=["copy", "copy_all"], feedback_options=None, show_label=False, layout="bubble", editable="all",
            group_consecutive_messages=False,
        )  # fmt: skip
        with gr.Row(elem_classes="say"):
            self._question = make(
                gr.Textbox, {"label": "page.chat.question", "placeholder": "page.chat.question_hint"},
                lines=1, max_lines=8, show_label=False, elem_id="chat-question", scale=8, autofocus=False,
            )  # fmt: skip
            self._send = make(
                gr.Button, {"value": "page.buttons.send"}, variant="primary", elem_id="chat-send", scale=1,
                min_width=80,
            )  # fmt: skip
            self._stop = make(gr.Button, {"value": "page.buttons.stop"}, elem_id="chat-stop", scale=1, min_width=80)
        with gr.Row(elem_classes="buttons talk-acts"):
            self._clear = make(gr.Button, {"value": "talk.new"}, elem_id="chat-clear", size="sm", min_width=80)
            self._keep = make(gr.Button, {"value": "talk.save"}, elem_id="chat-save", size="sm", min_width=80)
            self._open = make(
                gr.UploadButton, {"label": "talk.open"}, file_types=[".json", ".jsonl"], elem_id="chat-open", size="sm",
                min_width=80,
            )  # fmt: skip
        self._file = make(gr.DownloadButton, {"label": "talk.save"}, elem_id="chat-file", elem_classes="out-of-sight")

    def connect(self) -> None:
        language, controls = self._frame.language, self._form.controls
        talk, memory, said = self._talk, self._memory, self._notice
        is_busy, is_asked, before = gr.State(False), gr.State(False), gr.State(None)
        taken = [self._question, talk, memory, is_asked, before, is_busy, self._send]
        for event, take, given in (
            (self._send.click, _take, [self._question, talk, memory, is_busy]),
            (self._question.submit, _take, [self._question, talk, memory, is_busy]),
            (talk.retry, _take_again, [talk, memory, is_busy]),
            (talk.edit, _take_changed, [talk, memory, is_busy]),
        ):
            event(take, given, taken, **QUICK).then(
                self._on_question, [language, is_asked, before, talk, memory, *self._form.inputs],
                [talk, said, is_busy, self._question, self._send], **FREE,
            ).then(None, js=FOCUS_ON_QUESTION)  # fmt: skip
        talk.undo(_take_back, [talk, memory, is_busy], [talk, self._question], **QUICK)
        self._stop.click(_on_stop, [language, memory], said, **QUICK)
        for event in (self._clear.click, talk.clear):  # the second is the bin in the corner
            event(_on_clear, memory, [talk, memory, said, is_busy, self._question, self._send], **QUICK)
        self._keep.click(
            _on_save, [language, talk, controls["system"], controls["tools"]], [self._file, said],
            trigger_mode="once", **FREE,
        ).success(None, js=TAKE % "chat-file")  # fmt: skip
        self._open.upload(
            _on_open, [language, self._open, memory, is_busy],
            [talk, memory, controls["system"], controls["tools"], said], **FREE,
        )  # fmt: skip

    def remembers(self, load: Any) -> None:
        """Show the conversation that this browser held last, and what is still being said. Args: load: the page's."""
        load(_on_return, [self._frame.language, self._memory], [self._talk, self._notice], **FREE)

    def _on_question(
        self, request: gr.Request, language: str, is_asked: bool, before: list[dict] | None, talk: list[dict],
        memory: dict[str, str], *raw: Any,
    ) -> Iterator[list[Any]]:  # fmt: skip
        """Stream the answer to the last question; what has arrived stays, however the answer ends.

        Args:
            before: the conversation with the answer whose place this one is to take; it comes back if nothing arrives.
        """
        if not is_asked:
            yield [gr.skip()] * 5
            return
        free = [False, gr.update(interactive=True), gr.update(interactive=True)]
        name, has_arrived, said = memory["name"], False, gr.skip()
        try:
            with ANSWERS.taken(request):
                for turns, below, is_there in self._answered(language, spoken(talk), name, raw):
                    has_arrived = is_there
                    yield [turns, below, True, gr.skip(), gr.skip()]
        except UserError as error:
            said = refusal(error, language)
        except Exception:
            yield [_restored(before, has_arrived, name), gr.skip(), *free]
            raise
        yield [_restored(before, has_arrived, name), said, *free]

    def _answered(self, language: str, messages: list[dict], name: str, raw: tuple) -> Iterator[tuple[Any, Any, bool]]:
        """The conversation, what stands below it, and whether anything of the answer has arrived."""
        folder = chat.loaded()
        if folder is None:
            yield gr.skip(), notice("warning", escaped(words("page.chat.nothing_loaded", language))), False
            return
        job = self._form.job(raw).job
        asked = {each: getattr(job, each) for each in (*Generation.model_fields, "system", "tools", "enable_thinking")}
        given = ([{"role": "system", "content": job.system}] if job.system else []) + messages
        yield shown([*messages, {"role": "assistant", "content": WAITING}], language), "", False
        text = ""
        _note(name, Talk(given, Answer("")))  # until its turn comes, nobody else does
        try:
            chat.wait_until_ready(folder, READY_IN_S)
            context = context_of(folder)
            for text, piece in told(chat.answer(folder, given, name, talk=name, **asked)):
                said = text if piece.is_last else text or WAITING
                turns = [*messages, {"role": "assistant", "content": said}] if said else messages
                below = figures(piece, context, job.max_new_tokens, language) if piece.is_last else ""
                yield shown(turns, language, not piece.is_last), below, bool(text)
        except UserError:
            if not text:
                kept = read_talk(name)
                if kept and kept.answer and not kept.answer.is_over:
                    _note(name, Talk(given))
                yield shown(messages, language), gr.skip(), False
            raise


def _restored(before: list[dict] | None, has_arrived: bool, name: str) -> Any:
    """What the page shows in the end: where nothing came, the answer that was to be replaced."""
    if has_arrived or not before:
        return gr.skip()
    _note(name, Talk(spoken(before)))
    return before


def _on_return(language: str, memory: dict[str, str] | None) -> Iterator[list[Any]]:
    """The kept conversation, and the answer to it as it grows."""
    name = _name_in(memory)
    talk = read_talk(name) if name else None
    while talk is not None:
        answer = talk.answer or Answer("", error={})
        turns = [turn for turn in talk.whole() if turn["role"] != "system"]
        is_lost = not answer.is_over and is_silent(name) and chat.loaded() is None
        said = ""
        if answer.error:
            said = refusal(UserError(answer.error["key"], **answer.error["facts"]), language)
        elif answer.piece and answer.piece.is_last:
            said = figures(answer.piece, None, 0, language)
        yield [shown(turns, language, not answer.is_over), said]
        if answer.is_over or is_lost:
            return
        time.sleep(LOOK_S)
        talk = read_talk(name)


def _take(question: str, talk: list[dict], memory: dict[str, str], is_busy: bool) -> list[Any]:
    """Move what was typed into the conversation at once; until it is answered, there is no next question.

    It takes the place of one that got no answer, which many templates would refuse to render in front of it.
    """
    question = question.strip()
    while talk and spoken(talk[-1:])[0]["role"] == "user":
        talk = talk[:-1]
    return _asked([*talk, {"role": "user", "content": question}] if question else None, memory, is_busy, "")


def _take_again(talk: list[dict], memory: dict[str, str], is_busy: bool, event: gr.RetryData) -> list[Any]:
    at = question_before(talk, _index(event))
    return _asked(talk[: at + 1] if at >= 0 else None, memory, is_busy, before=talk)


def _take_changed(talk: list[dict], memory: dict[str, str], is_busy: bool, event: gr.EditData) -> list[Any]:
    """A changed question is asked again; a changed answer stays as it is now."""
    at, text = _index(event), text_of(event.value).strip()
    if is_busy or not text or not 0 <= at < len(talk):
        return _asked(None, memory, is_busy)
    changed = {**talk[at], "content": text}
    if talk[at]["role"] == "user":
        return _asked([*talk[:at], changed], memory, is_busy, before=talk)
    talk = [*talk[:at], changed, *talk[at + 1 :]]
    _keep(memory, talk)
    return [gr.skip(), talk, gr.skip(), False, None, gr.skip(), gr.skip()]


def _asked(
    talk: list[dict] | None, memory: dict[str, str], is_busy: bool, typed: Any = None, before: list[dict] | None = None
) -> list[Any]:
    """Ask, or not.

    Args:
        talk: with the question at its end; None: nothing is asked.
        typed: what the box for it then holds.
        before: what comes back if there is no answer.
    """
    if talk is None or is_busy:
        return [gr.skip(), gr.skip(), gr.skip(), False, None, gr.skip(), gr.skip()]
    box = gr.update(interactive=False) if typed is None else gr.update(value=typed, interactive=False)
    kept = memory if _name_in(memory) else {"name": new_name()}
    return [box, talk, kept, True, before, True, gr.update(interactive=False)]


def _take_back(talk: list[dict], memory: dict[str, str], is_busy: bool, event: gr.UndoData) -> list[Any]:
    """Without the last question and its answer; the question can be typed anew."""
    at = question_before(talk, _index(event))
    if is_busy or at < 0:
        return [gr.skip(), gr.skip()]
    _keep(memory, talk[:at])
    return [talk[:at], text_of(talk[at]["content"])]


def _on_stop(language: str, memory: dict[str, str], request: gr.Request) -> Any:
    """End the answer to this browser's conversation, whoever listens to it; what has arrived stays."""
    folder, name = chat.loaded(), _name_in(memory)
    try:
        if folder is not None and name:
            chat.stop_answer(folder, name)
    except UserError as error:
        return refusal(error, language)
    return gr.skip()


def _on_clear(memory: dict[str, str]) -> list[Any]:
    """Another conversation under another name: what may still be said of the old one does not come into it."""
    folder, name = chat.loaded(), _name_in(memory)
    if name:
        try:
            if folder is not None:
                chat.stop_answer(folder, name)
        except UserError:
            pass  # there is nobody who could still be answering
        forget_talk(name)
    return [[], {"name": new_name()}, "", False, gr.update(value="", interactive=True), gr.update(interactive=True)]


def _on_save(language: str, talk: list[dict], system: str, tools: str) -> list[Any]:
    if not talk:
        return [None, notice("warning", escaped(words("talk.nothing", language)))]
    turns = ([{"role": "system", "content": system.strip()}] if system.strip() else []) + spoken(talk)
    path = Path(tempfile.mkdtemp(prefix="lathe-talk-")) / time.strftime("conversation_%Y-%m-%d-%H-%M-%S.json")
    path.write_text(to_file(turns, tools), encoding="utf-8")
    return [str(path), ""]


def _on_open(language: str, path: str | None, memory: dict[str, str], is_busy: bool) -> list[Any]:
    """Another conversation, with its system prompt and tools in their fields."""
    if is_busy or not path:
        return [gr.skip()] * 5
    try:
        turns, tools = from_file(Path(path).read_text(encoding="utf-8-sig", errors="replace"))
    except UserError as error:
        return [*[gr.skip()] * 4, refusal(error, language)]
    system = next((turn["content"] for turn in turns if turn["role"] == "system"), "")
    talk = shown([turn for turn in turns if turn["role"] != "system"], language)
    kept = {"name": new_name()}
    _keep(kept, talk)
    return [talk, kept, system, tools or "", ""]


def _keep(memory: dict[str, str], talk: list[dict]) -> None:
    if name := _name_in(memory):
        write_talk(name, Talk(spoken(talk)))


def _note(name: str, talk: Talk) -> None:
    with suppress(OSError):  # a full disk, say: who listens gets the answer all the same
        write_talk(name, talk)


def _name_in(memory: dict[str, str] | None) -> str | None:
    """The name of the conversation that a browser remembers; None for anything that is no such name."""
    try:
        return check_name((memory or {}).get("name"))
    except ValueError:
        return None


def _index(event: Any) -> int:
    return event.index[0] if isinstance(event.index, list | tuple) else event.index
