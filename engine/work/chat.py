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

from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.__main__ import explain
from engine.work.answers import room_for, said
from engine.work.imports import lean_imports

LARGEST_MESSAGE_BYTES = 64 * 2**20
INTERVAL_S = 0.1


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
    try:
        asked = ChatJob.from_values({**job.values(), **request.options})
        given = (request.messages, asked, request.is_stopped.is_set)
        for piece in model.pieces(*given) if job.ollama else pieces(model, *given):
            request.replies.put(asdict(piece))
    except Exception as error:
        traceback.print_exc()
        request.replies.put({"error": explain(for_chat(error))})
        model.recover()


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
    limit = min(job.max_new_tokens, room_for(prompt, model))

    def piece(text: str, reason: str | None = None, count: int = 0) -> Piece:
        return Piece(text, reason is not None, reason, count, round(time.monotonic() - started, 3), len(prompt))

    if is_stopped():
        yield piece("", "stopped")
        return
    for each in said(model, prompt, job, limit, stop_words(job), is_stopped):
        if each.text or each.reason:
            yield piece(each.text, each.reason, each.count)


def stop_words(job: ChatJob) -> tuple[str, ...]:
    """What ends a turn, for a chat template whose end is no single token of this model, so that only text can tell."""
    template = named_template(job)
    return template.stop if template else ()


@dataclass
class Request:
    """One answer that somebody waits for; the two threads that work on it share it."""

    messages: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    answer_id: str | None = None
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
        """One connection: who it is, what is asked, and the answer until it is given or nobody waits for it."""
        with connection:
            try:
                _send_at_once(connection)
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                message = json.loads(connection.recv_bytes(LARGEST_MESSAGE_BYTES))
                if message["do"] == "stop":
                    self._stop(message["answer_id"])
                else:
                    self._relay(connection, Request(message["messages"], message["options"], message["answer_id"]))
            except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                print(f"A connection has ended: {error!r}")  # its other end is gone, or is none of ours
            except AuthenticationError as error:
                print(f"A connection was refused: {error!r}")

    def _relay(self, connection: Connection, request: Request) -> None:
        self._open.append(request)
        self._requests.put(request)
        try:
            is_last = False
            while not is_last:
                if connection.poll():
                    connection.recv_bytes()  # raises EOFError: nothing more is ever said, so the other end is gone
                try:
                    reply = request.replies.get(timeout=INTERVAL_S)
                except queue.Empty:
                    continue
                connection.send_bytes(json.dumps(reply).encode("ascii"))
                is_last = reply.get("is_last", True)
        finally:
            request.is_stopped.set()
            self._open.remove(request)

    def _stop(self, answer_id: str | None) -> None:
        for request in tuple(self._open):
            if answer_id is None or request.answer_id == answer_id:
                request.is_stopped.set()
                return


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


def for_chat(error: Exception) -> Exception:
    """Out of memory has other remedies in a chat than in a training."""
    found = explain(error)
    return UserError("chat.out_of_memory", **found["facts"]) if found["key"] == "out_of_memory" else error
