"""``runs queue``: the runs that wait for a device, from the terminal."""

from __future__ import annotations

import sys
from typing import Any

from engine.errors import UserError
from engine.options.command import parse
from engine.options.jobs import TrainJob
from engine.runs import queue as runs_queue
from engine.runs.folder import Folder
from engine.runs.seats import occupant
from engine.runs.sweep import job_of, sweep_jobs, values_of
from engine.words import words
from terminal.names import find

WORDS = ("add", "move", "cancel", "pause", "resume", "keep_going")
PLACES = ("up", "down", "first", "last")


def queue(arguments: list[str], language: str) -> int:
    """Do one of the words; without any, list what waits. Returns the exit code."""
    word, rest = (arguments[0].replace("-", "_"), arguments[1:]) if arguments else ("", [])
    if not word:
        return _list(language)
    if word not in WORDS:
        raise UserError("unknown_command", command=f"runs queue {word}", known=", ".join(WORDS))
    if word == "add":
        return _add(rest, language)
    if word in ("pause", "resume"):
        (runs_queue.pause if word == "pause" else runs_queue.resume)()
    elif word == "keep_going":
        runs_queue.keep_going(_truth(rest))
    elif not rest:
        raise UserError("run_name_missing", command=f"queue {word}")
    elif word == "cancel":
        for folder in [find(name) for name in rest]:
            runs_queue.cancel(folder)
            print(words("cli.queue.cancelled", language, name=folder.name))
    else:
        folder = find(rest[0])
        runs_queue.move(folder, _place(folder, rest[1:]))
    return _list(language)


def _list(language: str) -> int:
    line, settings = runs_queue.waiting(), runs_queue.read_settings()
    if not line:
        print(words("cli.queue.empty", language))
    for place, each in enumerate(line, start=1):
        print(f"{place:>3}  {','.join(each.wish.seats):8} {each.folder.name}")
    if line and settings.is_paused:
        print(words("cli.queue.paused", language))
    for name in dict.fromkeys(folder.name for each in line if (folder := runs_queue.held_back_by(each, settings))):
        print(words("cli.queue.held_back", language, name=name))
    for seat in dict.fromkeys(seat for each in line for seat in each.wish.seats):
        sitting = occupant(seat)
        if sitting:
            print(words("cli.queue.busy", language, device=seat, name=sitting.name))
    return 0


def _add(arguments: list[str], language: str) -> int:
    """A run again, or what a file and options say, once for each value of what is to be varied."""
    rest, values = _sort_out(arguments)
    if not rest:
        raise UserError("run_name_missing", command="queue add")
    is_said = rest[0].startswith("--") or "=" in rest[0] or rest[0].lower().endswith((".yaml", ".yml", ".json"))
    if is_said:
        job, warnings = parse(TrainJob, rest)
        for warning in warnings:
            print(warning.text(language), file=sys.stderr)
    elif len(rest) > 1:
        raise UserError("unexpected_word", word=rest[1])
    else:
        job = job_of(find(rest[0]))
    jobs = [job] if is_said and not values else sweep_jobs(job, values)
    for folder in runs_queue.submit_all(jobs, language):
        print(told(folder, language))
    return 0


def told(folder: Folder, language: str) -> str:
    """Whether a run that was submitted has begun, or which number it has."""
    place = runs_queue.place_of(folder)
    if place is None:
        return words("cli.started", language, folder=folder.path)
    return words("cli.queue.waits", language, name=folder.name, place=place)


def _sort_out(arguments: list[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """What belongs to ``--set`` (option → values), and everything else."""
    rest, values, left = [], {}, list(arguments)
    while left:
        word = left.pop(0)
        if word != "--set" and not word.startswith("--set="):
            rest.append(word)
            continue
        if word == "--set" and not left:
            raise UserError("flag_without_value", flag="set")
        said = left.pop(0) if word == "--set" else word.removeprefix("--set=")
        name, equals, text = said.partition("=")
        if not equals:
            raise UserError("queue.set_what", word=said)
        values[name.lstrip("-").replace("-", "_")] = values_of(text)
    return rest, values


def _place(folder: Folder, said: list[str]) -> int:
    word = said[0] if said else ""
    if word in PLACES:
        now = runs_queue.place_of(folder) or 1
        return {"up": now - 1, "down": now + 1, "first": 1, "last": len(runs_queue.waiting())}[word]
    if not word.isdigit():
        raise UserError("queue.which_place", word=word, known=", ".join(PLACES))
    return int(word)


def _truth(said: list[str]) -> bool:
    word = said[0].lower() if said else ""
    if word not in ("true", "false"):
        raise UserError("not_a_boolean", option="keep_going", value=word)
    return word == "true"
