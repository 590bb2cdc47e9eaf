"""A model of an Ollama server that answers conversations. The server renders the prompt; here is only a connection."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from engine.catalog.ollama import connected, ollama_host, telling
from engine.catalog.rendering import tools_of, with_system
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece

INTERVAL_S = 0.1


class OllamaChat:
    """A model of the server at OLLAMA_HOST.

    Raises:
        UserError: no server answers there, or it does not have the model.
    """

    def __init__(self, job: ChatJob) -> None:
        self._client = connected(None)
        self._name = job.ollama
        with telling(self._name):
            shown = self._client.show(self._name)
        facts = shown.modelinfo or {}
        trained_for = facts.get(f"{facts.get('general.architecture')}.context_length") or job.context_length
        self.context_length: int = min(job.context_length, int(trained_for))
        self.dtype = (shown.details and shown.details.quantization_level) or "–"
        self.device = ollama_host()

    def warm_up(self) -> None:
        """Have the server load the model; without messages it does nothing else."""
        with telling(self._name):
            self._client.chat(self._name, [], options={"num_ctx": self.context_length})

    def recover(self) -> None:
        """Nothing: a failed answer leaves nothing here."""

    def pieces(
        self, messages: list[dict[str, Any]], job: ChatJob, is_stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Piece]:
        """The answer to a conversation, in pieces of readable text; as ``engine.work.chat.pieces``.

        A conversation that is longer than the context is shortened by the server, its oldest turns first.
        """
        started = time.monotonic()
        count = prompt_tokens = 0

        def piece(text: str, reason: str | None = None) -> Piece:
            seconds = round(time.monotonic() - started, 3)
            return Piece(text, reason is not None, reason, count, seconds, prompt_tokens)

        spoken = _Spoken()
        with closing(_Answer(self._replies(messages, job))) as answer:
            while not is_stopped():
                part = answer.next()
                if part is None:
                    continue
                text = spoken.add(part.message)
                if part.done:
                    count, prompt_tokens = part.eval_count or count, part.prompt_eval_count or 0
                    yield piece(text, "length" if part.done_reason == "length" else "stop")
                    return
                if text:
                    count += 1
                    yield piece(text)
        yield piece("", "stopped")

    def _replies(self, messages: list[dict[str, Any]], job: ChatJob) -> Iterator[Any]:
        with telling(self._name):
            yield from self._client.chat(
                self._name, with_system(messages, job), options=ollama_options(job, self.context_length), stream=True,
                tools=tools_of(job),
                think=job.enable_thinking,
            )  # fmt: skip


def ollama_options(job: ChatJob, context_length: int) -> dict[str, Any]:
    """Sampling as Ollama names it. What is set in the Modelfile gives way to it, stop words apart."""
    is_sampled = job.do_sample and job.temperature > 0
    options = {
        "temperature": job.temperature if is_sampled else 0.0, "top_p": job.top_p, "top_k": job.top_k,
        "repeat_penalty": job.repetition_penalty, "num_predict": job.max_new_tokens, "num_ctx": context_length,
    }  # fmt: skip
    return options if job.sampling_seed is None else {**options, "seed": job.sampling_seed}


class _Spoken:
    """The text of an answer whose thought and calls Ollama sends apart: as a model without Ollama writes them."""

    def __init__(self) -> None:
        self._is_thinking = False

    def add(self, message: Any) -> str:
        text = ""
        if message.thinking:
            text += message.thinking if self._is_thinking else f"<think>\n{message.thinking}"
            self._is_thinking = True
        if self._is_thinking and (message.content or message.tool_calls):
            text += "\n</think>\n\n"
            self._is_thinking = False
        text += message.content or ""
        for call in message.tool_calls or ():
            said = {"name": call.function.name, "arguments": dict(call.function.arguments)}
            text += f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>\n"
        return text


class _Answer:
    """Reads an answer in a thread, so that it can be left also while the server is silent over a long prompt."""

    def __init__(self, replies: Iterator[Any]) -> None:
        self._replies = replies
        self._read: queue.SimpleQueue = queue.SimpleQueue()
        self._is_left = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def next(self) -> Any:
        """The next part; None: there is none yet. Raises what reading it raised."""
        try:
            part = self._read.get(timeout=INTERVAL_S)
        except queue.Empty:
            return None
        if isinstance(part, BaseException):
            raise part
        return part

    def close(self) -> None:
        self._is_left.set()

    def _run(self) -> None:
        try:
            with closing(self._replies) as replies:  # closed early, the server ends its work
                for part in replies:
                    self._read.put(part)
                    if self._is_left.is_set():
                        return
            self._read.put(UserError("ollama.cut_off", host=ollama_host(), detail="EOF"))
        except BaseException as error:
            self._read.put(error)
