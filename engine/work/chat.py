"""Heavy end of a chat: holds one model and answers whoever may open its door, one answer at a time, in turn.

The model is used by the main thread only. A thread listens, and one for each connection passes messages on.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from engine.catalog.reasoning import opened
from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.runs.talks import Answer, Talk, check_name, write_talk
from engine.work.__main__ import explain
from engine.work.imports import lean_imports

LARGEST_MESSAGE_BYTES = 64 * 2**20
INTERVAL_S = 0.1
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


@dataclass
class Request:
    """One answer that somebody waits for; the two threads that work on it share it."""

    messages: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    answer_id: str | None = None
    side: str | None = None
    talk: str | None = None
    replies: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    is_stopped: threading.Event = field(default_factory=threading.Event)


class Door:
    """Listens on 127.0.0.1, lets in who knows the key in the run's folder, and queues what they ask, fairly."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._key = secrets.token_bytes(32)
        self._listener = Listener(("127.0.0.1", 0), backlog=16)
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._open: list[Request] = []  # waiting or being answered, the earliest first

    def __enter__(self) -> Door:
        threading.Thread(target=self._accept, daemon=True).start()
        host, port = self._listener.address
        _write_secret(self._folder.address, json.dumps({"host": host, "port": port, "key": self._key.hex()}))
        return self

    def __exit__(self, *error: Any) -> None:
        self._folder.address.unlink(missing_ok=True)
        self._listener.close()

    def next_request(self, timeout_s: float) -> Request | None:
        try:
            return self._requests.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return  # closed: the worker ends
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: Connection) -> None:
        """One connection: who it is, what is asked, and the answer until it is given or nobody waits for it.

        An answer of a conversation that is kept is waited for by whoever opens it again.
        """
        with connection:
            try:
                _send_at_once(connection)
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                message = json.loads(connection.recv_bytes(LARGEST_MESSAGE_BYTES))
                if message["do"] == "stop":
                    self._stop(message["answer_id"])
                else:
                    self._relay(connection, _request(message))
            except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                print(f"A connection has ended: {error!r}")  # its other end is gone, or is none of ours
            except AuthenticationError as error:
                print(f"A connection was refused: {error!r}")

    def _relay(self, connection: Connection, request: Request) -> None:
        self._open.append(request)
        self._requests.put(request)
        try:
            is_last, is_heard = False, True
            while not is_last:
                try:
                    if is_heard and connection.poll():
                        connection.recv_bytes()  # raises EOFError: nothing more is ever said: the other end is gone
                    reply = request.replies.get(timeout=INTERVAL_S)
                    if is_heard:
                        connection.send_bytes(json.dumps(reply).encode("ascii"))
                except queue.Empty:
                    continue
                except (EOFError, OSError):
                    if request.talk is None:
                        raise
                    is_heard = False
                    continue
                is_last = reply.get("is_last", True)
        finally:
            request.is_stopped.set()
            self._open.remove(request)

    def _stop(self, answer_id: str | None) -> None:
        for request in tuple(self._open):
            if answer_id is None or request.answer_id == answer_id:
                request.is_stopped.set()
                return


def _request(message: dict[str, Any]) -> Request:
    talk = message.get("talk")
    if talk is not None:
        check_name(talk)
    return Request(message["messages"], message["options"], message["answer_id"], message.get("side"), talk)


def _send_at_once(connection: Connection) -> None:
    """Do not let the system collect tokens into larger packets: the last would come up to 40 ms late."""
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy:
        copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _write_secret(path: Path, text: str) -> None:
    """Replace a file as a whole by one that only its owner can read, at no moment anybody else."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _for_chat(error: Exception) -> Exception:
    """Out of memory has other remedies in a chat than in a training."""
    found = explain(error)
    return UserError("chat.out_of_memory", **found["facts"]) if found["key"] == "out_of_memory" else error
