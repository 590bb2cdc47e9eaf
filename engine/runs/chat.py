"""Light end of a chat: starts and ends the worker that holds the model, sends it messages and yields its answer.

The two ends speak JSON over a connection on 127.0.0.1 that only the owner of the run's folder can open. What a model
is, only the worker knows (``engine.work.chat``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any, Literal

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.folder import Folder
from engine.runs.read import is_alive, list_runs, read_state
from engine.runs.start import start
from engine.runs.stop import end_now

INTERVAL_S = 0.05
STARTUP_S = 10.0


@dataclass(frozen=True)
class Piece:
    """Some more of an answer.

    Args:
        text: what is new; may be empty, in the last piece above all.
        finish_reason: of the last piece: "stop" (the model ended its turn), "length" (``max_new_tokens`` or the end of
            the context), "stopped" (somebody stopped it); None before.
        tokens: of the answer so far.
        seconds: since the worker began with the answer, reading the prompt included.
        prompt_tokens: length of the prompt.
    """

    text: str
    is_last: bool
    finish_reason: Literal["stop", "length", "stopped"] | None
    tokens: int
    seconds: float
    prompt_tokens: int


def load(job: ChatJob, language: str = "en", owner_pid: int | None = None) -> Folder:
    """Start a worker that loads the model, and return at once.

    Args:
        owner_pid: the worker ends when this process does; None: it stays until :func:`unload`.
    """
    return start(job, language, owner_pid)


def loaded() -> Folder | None:
    """The living chat worker that belongs to nobody in particular, loading or ready; a restarted page finds it so."""
    for folder, state in list_runs("chat"):
        if state.status in ("starting", "running") and not state.owner_pid:
            return folder
    return None


def is_ready(folder: Folder) -> bool:
    state = read_state(folder)
    has_door = state.kind == "api" or folder.address.is_file()
    return state.status == "running" and bool(state.result.get("ready")) and has_door


def wait_until_ready(folder: Folder, timeout_s: float) -> None:
    """Return once the worker can answer.

    Raises:
        UserError: why it could not load the model, or that it has not done so in time.
    """
    deadline = time.monotonic() + timeout_s
    while not is_ready(folder):
        if read_state(folder).has_ended:
            raise failure(folder)
        if time.monotonic() > deadline:
            raise UserError("chat.not_ready", seconds=round(timeout_s))
        time.sleep(INTERVAL_S)


def answer(
    folder: Folder, messages: list[dict[str, Any]], answer_id: str | None = None, *, side: str | None = None,
    talk: str | None = None, **options: Any,
) -> Iterator[Piece]:  # fmt: skip
    """Stream the answer to a conversation. Closing the iterator early stops the work, but for a ``talk``.

    Args:
        messages: turns with ``role`` and ``content``, the latest last.
        answer_id: a name by which :func:`stop_answer` finds this answer among others.
        side: who answers: the model as it was loaded (None), its base alone ("base"), or with the adapter in a folder.
        talk: a name under which conversation and answer are kept (``engine.runs.talks``), so that the answer goes on
            to be given when nobody listens any more; None: they are not kept.
        **options: options of ``ChatJob`` for this answer only, ``temperature`` for example; the others are the job's.

    Raises:
        UserError: the model is not loaded, or this answer failed; the next one may well work.
    """
    with _connect(folder) as connection:
        asked = {"messages": messages, "answer_id": answer_id, "side": side, "talk": talk, "options": options}
        _send(connection, {"do": "answer", **asked})
        while True:
            try:
                reply = json.loads(connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise failure(folder) from error
            if "error" in reply:
                raise UserError(reply["error"]["key"], **reply["error"]["facts"])
            piece = Piece(**reply)
            yield piece
            if piece.is_last:
                return


def stop_answer(folder: Folder, answer_id: str | None = None) -> None:
    """End an answer at its next token; what it has so far is kept, and its last piece says "stopped".

    Args:
        answer_id: which one; None: the one that is being given now.

    Raises:
        UserError: the model is not loaded.
    """
    with _connect(folder) as connection:
        _send(connection, {"do": "stop", "answer_id": answer_id})


def unload(folder: Folder) -> None:
    """End the worker; when this returns, its memory is free."""
    deadline = time.monotonic() + STARTUP_S
    while read_state(folder).pid is None and is_alive(folder) and time.monotonic() < deadline:
        time.sleep(INTERVAL_S)  # it was started a moment ago and has not yet said who it is
    end_now(folder)


def _connect(folder: Folder) -> Connection:
    try:
        address = json.loads(folder.address.read_text(encoding="utf-8"))
        return Client((address["host"], address["port"]), authkey=bytes.fromhex(address["key"]))
    except (OSError, EOFError, AuthenticationError) as error:
        raise failure(folder) from error


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode("ascii"))


def failure(folder: Folder) -> UserError:
    """Why a worker cannot be spoken to: what it has recorded itself, else that it is loading, ended, or was killed."""
    state = read_state(folder)
    if state.error:
        return UserError(state.error["key"], **state.error["facts"])
    if state.status == "lost":
        return UserError("chat.worker_lost", log=folder.log)
    return UserError("chat.ended" if state.has_ended else "chat.loading")
