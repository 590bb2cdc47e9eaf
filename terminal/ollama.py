"""``ollama create | list | chat | remove``: models of the Ollama server at OLLAMA_HOST, from the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.catalog.modelfile import create_commands, modelfile_of
from engine.catalog.ollama import look, ollama_host, remove
from engine.errors import UserError
from engine.options.command import help_text, parse
from engine.options.jobs import ChatJob, OllamaJob
from engine.words import words
from terminal.chat import chat
from terminal.columns import aligned
from terminal.watch import start_and_watch

WORDS = ("create", "list", "chat", "remove")


def ollama(arguments: list[str], language: str) -> int:
    """Do one of the words. Returns the exit code."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word in ("--help", "-h"):
        print(words("cli.commands.ollama", language))
        return 0
    if word not in WORDS:
        raise UserError("unknown_command", command=f"ollama {word}", known=", ".join(WORDS))
    if {"--help", "-h"} & set(rest):
        print(_help(word, language))
        return 0
    if word == "list":
        return _list(language)
    if rest and not rest[0].startswith("--"):
        rest = ["--ollama", *rest]
    return {"create": _create, "chat": _chat, "remove": _remove}[word](rest, language)


def _help(word: str, language: str) -> str:
    """What can be said after ``ollama``, and the options of what takes some."""
    if word == "chat":
        return help_text(ChatJob, language)
    if word == "create":
        return help_text(OllamaJob, language).partition("\n\n")[2]  # its own usage stands in what the command does
    return words("cli.commands.ollama", language)


def _create(arguments: list[str], language: str) -> int:
    """Create a model; where no server answers, say what to type where one does."""
    job, _ = parse(OllamaJob, arguments)
    try:
        look()
    except UserError as error:
        path = Path(job.gguf).expanduser()
        modelfile = job.modelfile or (modelfile_of(path) if path.is_file() else None)
        if error.key != "ollama.no_server" or not modelfile:
            raise
        print(error.text(language), file=sys.stderr)
        print(words("ollama.by_hand", language), file=sys.stderr)
        print(create_commands(job.ollama, modelfile))
        return 1
    return start_and_watch(job, language)


def _list(language: str) -> int:
    server = look()
    print(words("ollama.answers", language, version=server.version, host=server.host), file=sys.stderr)
    rows = [(model.name, f"{model.size_bytes / 1e9:.2f} GB", model.kind) for model in server.models]
    print(*aligned(rows) if rows else [words("ollama.none", language)], sep="\n")
    return 0


def _chat(arguments: list[str], language: str) -> int:
    job, warnings = parse(ChatJob, arguments)
    for warning in warnings:
        print(warning.text(language), file=sys.stderr)
    if not job.ollama:
        raise UserError("ollama.name_missing")
    return chat(job, language)


def _remove(arguments: list[str], language: str) -> int:
    name = arguments[1] if len(arguments) == 2 else None
    if name is None:
        raise UserError("ollama.name_missing")
    remove(name)
    print(words("ollama.removed", language, name=name, host=ollama_host()))
    return 0
