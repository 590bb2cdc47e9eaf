"""The door of a chat worker: who may ask, what is asked, in turn, and what is said to whom. It knows no model."""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from engine.runs.chat import Piece
from engine.runs.folder import Folder
from engine.runs.talks import Answer, Talk, check_name, write_talk

LARGEST_MESSAGE_BYTES = 64 * 2**20
INTERVAL_S = 0.1


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
    is_taken: bool = False  # by the model's thread, or back again by who stopped it before its turn


class Door:
    """Listens on 127.0.0.1, lets in who knows the key in the run's folder, and queues what they ask, fairly."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._key = secrets.token_bytes(32)
        self._listener = Listener(("127.0.0.1", 0), backlog=16)
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._lock = threading.Lock()
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
            request = self._requests.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return request if self._take(request) else None

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
        for other in tuple(self._open):
            if request.talk is not None and other.talk == request.talk:
                other.is_stopped.set()  # a conversation has one answer at a time
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
                    if request.is_stopped.is_set() and self._take(request):
                        request.replies.put(_stopped_in_line(request))
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

    def _take(self, request: Request) -> bool:
        """Whether it is ours to answer, and nobody else's from now on."""
        with self._lock:
            was_taken, request.is_taken = request.is_taken, True
            return not was_taken

    def _stop(self, answer_id: str | None) -> None:
        for request in tuple(self._open):
            if answer_id is None or request.answer_id == answer_id:
                request.is_stopped.set()
                return


def _stopped_in_line(request: Request) -> dict[str, Any]:
    last = Piece("", True, "stopped", 0, 0.0, 0)
    if request.talk is not None:
        with suppress(OSError):  # a full disk, say: who listens is told all the same
            write_talk(request.talk, Talk(request.messages, Answer("", last)))
    return asdict(last)


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
