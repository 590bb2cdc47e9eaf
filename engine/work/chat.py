"""Heavy end of a chat: holds one model and answers whoever may open its door, one answer at a time, in turn.

The model is used by the main thread only; the threads of its door (``door.py``) pass messages on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from engine.catalog.reasoning import opened
from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece
from engine.runs.record import Recorder
from engine.runs.talks import Answer, Talk, write_talk
from engine.work.__main__ import explain
from engine.work.door import Door, Request
from engine.work.imports import lean_imports

NOTED_S = 1.0
"""How often what has been said of an answer is written down."""


def run(job: ChatJob, recorder: Recorder) -> dict[str, Any]:
    """Load a model and answer until the worker is ended. Never returns of itself."""
    try:
        model, facts = load(job, recorder)
        warm_up(model, job)
    except Exception as error:
        raise _for_chat(error) from error
    recorder.check_stop()
    with Door(recorder.folder) as door:
        recorder.state(result={"ready": True, **facts})
        recorder.phase("ready")
        while True:
            recorder.check_stop()
            request = door.next_request(timeout_s=0.5)
            if request is not None:
                answer(model, request, job)


def load(job: ChatJob, recorder: Recorder) -> tuple[Any, dict[str, Any]]:
    """The model in llama.cpp or transformers, and what a user wants to know of it."""
    if job.gguf:
        from engine.work.llama import LlamaModel

        recorder.phase("loading_model")
        model = LlamaModel(job)
        facts = {
            "model": job.gguf,
            "adapters": [],
            "dtype": model.dtype,
            "device": model.device,
            "backend": "llama.cpp",
        }
    else:
        with lean_imports():
            from engine.work.generate import load_for_answers

        model = load_for_answers(job, recorder)
        facts = {"model": job.model_name_or_path, "adapters": list(job.adapter_name_or_path), "dtype": model.dtype,
                 "device": model.device, "backend": "transformers"}  # fmt: skip
    return model, {**facts, "context_length": model.context_length}


def warm_up(model: Any, job: ChatJob) -> None:
    """Compute one token, so that the first answer does not wait for the weights to be read from the disk."""
    greedy = job.model_copy(update={"do_sample": False})
    next(model.tokens([0, 0], greedy), None)


def answer(model: Any, request: Request, job: ChatJob) -> None:
    """Answer one request; whatever goes wrong is told to who asked, and the next request is answered."""
    noted = Noted(request.talk, request.messages)
    try:
        asked = ChatJob.from_values({**job.values(), **request.options})
        take_side(model, request.side)
        for piece in pieces(model, request.messages, asked, request.is_stopped.is_set):
            noted.add(piece)
            request.replies.put(asdict(piece))
    except Exception as error:
        traceback.print_exc()
        explained = explain(_for_chat(error))
        noted.fail(explained)
        request.replies.put({"error": explained})
        model.recover()


def take_side(model: Any, side: str | None) -> None:
    """Let a model answer as it was loaded (None), as its base alone ("base"), or with the adapter in a folder.

    Raises:
        UserError: this back end cannot switch, or the adapter does not fit.
    """
    if hasattr(model, "use"):
        model.use(side)
    elif side is not None:
        raise UserError("chat.cannot_switch")


class Noted:
    """Keeps a conversation on the disk while its answer is given, for whoever opens the page again.

    Args:
        name: of the conversation; None: nothing is kept.
    """

    def __init__(self, name: str | None, messages: list[dict[str, Any]]) -> None:
        self._name, self._messages = name, messages
        self._text, self._at = "", 0.0
        self._write(Answer(""))

    def add(self, piece: Piece) -> None:
        self._text += piece.text
        if piece.is_last or time.monotonic() > self._at + NOTED_S:
            self._write(Answer(self._text, piece))

    def fail(self, error: dict[str, Any]) -> None:
        self._write(Answer(self._text, error=error))

    def _write(self, answer: Answer) -> None:
        if self._name is None:
            return
        self._at = time.monotonic()
        try:
            write_talk(self._name, Talk(self._messages, answer))
        except OSError:
            traceback.print_exc()  # a full disk, say: who listens gets the answer all the same
            self._name = None


def pieces(
    model: Any, messages: list[dict[str, Any]], job: ChatJob, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Piece]:
    """The answer to a conversation, in pieces of readable text.

    Args:
        model: with ``encode``, ``tokens``, ``reader`` and ``context_length``.
        is_stopped: asked after every token.

    Raises:
        UserError: the conversation leaves no room for an answer in the model's context, or cannot be rendered.
    """
    started = time.monotonic()
    prompt = [] if is_stopped() else model.encode(messages, job)
    limit = room_for_answer(len(prompt), model.context_length, job.max_new_tokens)
    template = named_template(job)
    reader, stop_words = model.reader(), StopWords(template.stop if template else ())
    count = 0

    def piece(text: str, reason: str | None = None) -> Piece:
        return Piece(text, reason is not None, reason, count, round(time.monotonic() - started, 3), len(prompt))

    if is_stopped():
        yield piece("", "stopped")
        return
    text, reason = "", "stop"
    if thought := opened(model.tail(prompt)) if hasattr(model, "tail") else "":
        yield piece(thought)
    for token in model.tokens(prompt, job):
        count += 1
        text = stop_words.add(reader.add(token))
        if stop_words.is_found:
            break
        if is_stopped() or count == limit:
            reason = "stopped" if is_stopped() else "length"
            break
        if text:
            yield piece(text)
        text = ""
    if not stop_words.is_found:
        text += stop_words.add(reader.finish()) + stop_words.finish()
    yield piece(text, reason)


def room_for_answer(prompt_tokens: int, context: int, max_new_tokens: int) -> int:
    """How many tokens an answer may have.

    One that is asked for to fill the whole context gets what is left of it; any other gets what it asks for.

    Raises:
        UserError: the prompt alone fills the context, or leaves less than was asked for.
    """
    room = context - prompt_tokens
    if room < 1:
        raise UserError("chat.context_overflow", tokens=prompt_tokens, context=context)
    if room < max_new_tokens < context:
        raise UserError(
            "chat.no_room", tokens=prompt_tokens, context=context, asked=max_new_tokens, room=room
        )  # fmt: skip
    return min(max_new_tokens, room)


class StopWords:
    """Passes text on until one of some words, whose possible beginnings it keeps back.

    For a chat template whose end of a turn is no single token of this model, so that only its text can tell.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._kept = ""
        self.is_found = False

    def add(self, text: str) -> str:
        """What is certain to be no stop word; nothing after one."""
        text, self._kept = self._kept + text, ""
        found = [at for at in (text.find(word) for word in self._words) if at >= 0]
        if found:
            self.is_found = True
            return text[: min(found)]
        longest = max((n for word in self._words for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
        self._kept = text[len(text) - longest :]
        return text[: len(text) - longest]

    def finish(self) -> str:
        """What was kept back in vain."""
        return self._kept


def _for_chat(error: Exception) -> Exception:
    """Out of memory has other remedies in a chat than in a training."""
    found = explain(error)
    return UserError("chat.out_of_memory", **found["facts"]) if found["key"] == "out_of_memory" else error
