"""``chat``: one answer, or a conversation, in the terminal. Only answers go to the standard output."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece, answer, is_ready, load, unload, wait_until_ready
from engine.runs.folder import Folder
from engine.runs.phases import phase_facts, phase_words
from engine.runs.progress import watch
from engine.runs.read import read_state
from engine.words import words
from terminal.prompts import ask_prompts

LOADING_INTERVAL_S = 0.2


def chat(job: ChatJob, language: str) -> int:
    """Load a model, answer ``job.prompt``, the list in ``job.prompts`` or all that is typed, and unload it.

    Returns:
        Exit code: 0 done, 1 failed, 130 interrupted before there was an answer.
    """
    if job.prompts:
        return _list(job, language)
    folder = load(job, language, owner_pid=os.getpid())
    try:
        show_loading(folder, language)
        if job.prompt is not None:
            _say([{"role": "user", "content": job.prompt}], folder)
            return 0
        return _converse(folder, language)
    except UserError as error:
        note(error.text(language))
        note(words("cli.log_is_in", language, path=folder.log))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        unload(folder)


def _list(job: ChatJob, language: str) -> int:
    try:
        ask_prompts(job, language, lambda folder: show_loading(folder, language), note)
        return 0
    except UserError as error:
        note(error.text(language))
        return 1
    except KeyboardInterrupt:
        return 130


def _converse(folder: Folder, language: str) -> int:
    """Answer line by line, until ``exit``, the end of the input, or Ctrl-C while nothing is being answered."""
    note(words("chat.hint", language))
    messages: list[dict[str, Any]] = []
    while True:
        try:
            line = _ask(words("chat.you", language)).strip()
        except (EOFError, KeyboardInterrupt):
            note("")
            return 0
        if line in ("exit", "quit"):
            return 0
        if line == "clear":
            messages = []
            note(words("chat.cleared", language))
        elif line:
            messages = _turn([*messages, {"role": "user", "content": line}], folder, language)


def _turn(messages: list[dict[str, Any]], folder: Folder, language: str) -> list[dict[str, Any]]:
    """The conversation with its answer; without the question, when it could not be answered."""
    try:
        text, last = _say(messages, folder)
    except UserError as error:
        if read_state(folder).has_ended:
            raise
        note(error.text(language))
        return messages[:-1]
    if last is not None:
        speed = f"{last.tokens / last.seconds:.1f}" if last.seconds else "?"
        note(words("chat.speed", language, tokens=last.tokens, speed=speed))
    return [*messages, {"role": "assistant", "content": text}]


def _say(messages: list[dict[str, Any]], folder: Folder) -> tuple[str, Piece | None]:
    """Print an answer as it comes. Ctrl-C in a conversation ends it; what was said by then counts.

    Returns:
        The text, and the last piece; None if it was interrupted.
    """
    text, last = "", None
    try:
        for piece in answer(folder, messages):
            print(piece.text, end="", flush=True)
            text += piece.text
            last = piece if piece.is_last else None
    except KeyboardInterrupt:
        if not text:
            raise
    finally:
        print(flush=True)
    return text, last


def show_loading(folder: Folder, language: str) -> None:
    """Say on the standard error what the worker is doing and how far it is, until it can answer."""
    said, width = None, 0
    while not is_ready(folder):
        phase = watch(folder).phase
        if phase and sys.stderr.isatty():
            text = "  ".join(phase_facts(phase, language))[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(width), end="", file=sys.stderr, flush=True)
            width = len(text)
        elif phase and phase.name != said:
            said = phase.name
            note(phase_words(said, language) + " …")
        try:
            wait_until_ready(folder, LOADING_INTERVAL_S)
        except UserError as error:
            if error.key != "chat.not_ready":
                raise
    if width:
        note("")


def _ask(prompt: str) -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
