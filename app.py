"""The front door: no word serves the page, a command word does its job in the terminal.

A room is imported only once it is known which command was typed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

JOB_COMMANDS = ("train", "eval", "preflight", "export", "gguf", "chat", "api", "webui")
COMMANDS = (*JOB_COMMANDS, "ollama", "runs", "data", "env", "password")
SAME = {"version": "env"}
"""Words that commands for LLaMA-Factory use for one of ours."""
NOT_HERE = ("webchat",)
"""Words of it that are not built, each with a sentence of its own."""


def main(arguments: list[str]) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 refused before it started, 130 stopped."""
    from engine.errors import UserError
    from engine.words import words

    language, arguments = _language(arguments)
    has_command = arguments and not arguments[0].startswith("-")
    command, rest = (arguments[0], arguments[1:]) if has_command else ("webui", arguments)
    try:
        if command in ("help", "--help", "-h") or arguments[:1] in (["--help"], ["-h"]):
            print(words("cli.overview", language))
            return 0
        command = SAME.get(command, command)
        if command in NOT_HERE:
            raise UserError(f"command_missing.{command}")
        if command not in COMMANDS:
            raise UserError("unknown_command", command=command, known=", ".join(COMMANDS))
        if command in JOB_COMMANDS:
            return _do_job(command, rest, language)
        return _look(command, rest, language)
    except UserError as error:
        print(error.text(language), file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


def _do_job(command: str, arguments: list[str], language: str) -> int:
    from engine.options.command import help_text, job_from, read_arguments
    from engine.options.jobs import JOBS
    from engine.options.reference import as_evaluation, is_evaluation

    job_type = JOBS[command]
    if {"--help", "-h"} & set(arguments):
        print(help_text(job_type, language))
        if command == "gguf":
            _print_sizes(arguments, language)
        return 0
    if command == "webui":
        arguments = [f"lang={language}", *arguments]  # first, since an option before it might take several words
    if command == "eval" and language in ("en", "zh"):
        arguments = [f"lang={language}", *arguments]
    if command in ("train", "preflight"):
        import os

        from engine.catalog.devices import devices
        from engine.runs.launch import words_from_environment

        arguments = [*words_from_environment(os.environ, devices), *arguments]
    if command == "api":
        import os

        from engine.runs.api import words_from_environment

        arguments = [*words_from_environment(os.environ), *arguments]
    values = read_arguments(job_type, arguments)
    if command == "train" and is_evaluation(values):
        job_type, values = JOBS["eval"], as_evaluation(values)
    if command in ("train", "preflight"):
        from terminal.presets import without_preset

        values = without_preset(values, job_type, language)
    job, warnings = job_from(job_type, values)
    for warning in warnings:
        print(warning.text(language), file=sys.stderr)
    if command == "webui":
        from webui.page import serve

        return serve(job)
    if command == "preflight":
        from terminal.preflight import run_preflight

        return run_preflight(job, language)
    if command == "chat":
        from terminal.chat import chat

        return chat(job, language)
    if command == "api":
        from terminal.api import api

        return api(job, language)
    from terminal.watch import start_and_watch

    return start_and_watch(job, language)


def _print_sizes(arguments: list[str], language: str) -> None:
    """Below the help of `gguf`: the size of each type for the model that is named, or the one it takes by itself."""
    from engine.options.command import read_arguments
    from engine.options.jobs import GgufJob
    from terminal.gguf import sizes_text

    said = read_arguments(GgufJob, [word for word in arguments if word not in ("--help", "-h")])
    text = sizes_text(said.get("model_name_or_path", GgufJob().model_name_or_path), language)
    print(f"\n{text}" if text else "", end="\n" if text else "")


def _look(command: str, arguments: list[str], language: str) -> int:
    if command == "runs":
        from terminal.runs import runs

        return runs(arguments, language)
    if command == "ollama":
        from terminal.ollama import ollama

        return ollama(arguments, language)
    if command == "data":
        from terminal.data import data

        return data(arguments, language)
    if command == "password":
        from terminal.password import password

        return password(arguments, language)
    from terminal.env import env

    return env(arguments, language)


def _language(arguments: list[str]) -> tuple[str, list[str]]:
    """Take ``--lang xx`` or ``--lang=xx`` out of the arguments; English when there is none."""
    from engine.errors import UserError
    from engine.words import LANGUAGES

    language, rest, words_left = "en", [], list(arguments)
    while words_left:
        word = words_left.pop(0)
        if word == "--lang" and words_left:
            language = words_left.pop(0)
        elif word.startswith("--lang="):
            language = word.partition("=")[2]
        else:
            rest.append(word)
    if language not in LANGUAGES:
        print(UserError("unknown_language", language=language, known=", ".join(LANGUAGES)).text("en"), file=sys.stderr)
        raise SystemExit(2)
    return language, rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
