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
from engine.work.answers import room_for_answer, said
from engine.work.door import Door, Request
from engine.work.imports import lean_imports

NOTED_S = 1.0
"""How often what has been said of an answer is written down."""


def run(job: ChatJob, recorder: Recorder) -> dict[str, Any]:
    """Load a model and answer until the worker is ended. Never returns of itself."""
    try:
        model, facts = load(job, recorder)
        if not job.ollama:
            warm_up(model, job)
    except Exception as error:
        raise for_chat(error) from error
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
    """The model in Ollama, llama.cpp or transformers, and what a user wants to know of it."""
    if job.ollama:
        from engine.work.ollama_chat import OllamaChat

        recorder.phase("loading_model")
        model = OllamaChat(job)
        model.warm_up()
        facts = {"model": job.ollama, "adapters": [], "dtype": model.dtype, "device": model.device,
                 "backend": "ollama"}  # fmt: skip
    elif job.gguf:
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
        given = (request.messages, asked, request.is_stopped.is_set)
        for piece in model.pieces(*given) if job.ollama else pieces(model, *given):
            noted.add(piece)
            request.replies.put(asdict(piece))
    except Exception as error:
        traceback.print_exc()
        explained = explain(for_chat(error))
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

    def piece(text: str, reason: str | None = None, count: int = 0) -> Piece:
        return Piece(text, reason is not None, reason, count, round(time.monotonic() - started, 3), len(prompt))

    if is_stopped():
        yield piece("", "stopped")
        return
    if thought := opened(model.tail(prompt)) if hasattr(model, "tail") else "":
        yield piece(thought)
    for each in said(model, prompt, job, limit, stop_words(job), is_stopped):
        if each.text or each.reason:
            yield piece(each.text, each.reason, each.count)


def stop_words(job: ChatJob) -> tuple[str, ...]:
    """What ends a turn, for a chat template whose end is no single token of this model, so that only text can tell."""
    template = named_template(job)
    return template.stop if template else ()


def for_chat(error: Exception) -> Exception:
    """Out of memory has other remedies in a chat than in a training."""
    found = explain(error)
    return UserError("chat.out_of_memory", **found["facts"]) if found["key"] == "out_of_memory" else error
