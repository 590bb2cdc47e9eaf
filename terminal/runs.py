"""``runs list | show | watch | stop | resume | repeat | rename | delete | compare | log`` and some more."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from engine.errors import Refused, UserError
from engine.options.command import as_text
from engine.runs.card import card
from engine.runs.diagnostics import diagnose, file_name
from engine.runs.folder import Folder
from engine.runs.queue import cancel, keep, place_of, submit
from engine.runs.read import read_state
from engine.runs.repeat import first_difference, repeated_job
from engine.runs.retry import retried_job
from engine.runs.stop import ask_to_stop, end_now
from engine.words import words
from terminal.cause import print_cause
from terminal.checkpoints import checkpoints, resume
from terminal.compare import compare
from terminal.curves import write_curves
from terminal.delete import delete_them, discard_it
from terminal.ladder import print_ladder
from terminal.log import log
from terminal.names import find
from terminal.notes import say
from terminal.queue import queue, told
from terminal.run_list import list_them
from terminal.watch import start_and_watch, stay_with

WORDS = (
    "list", "show", "watch", "stop", "checkpoints", "resume", "retry", "repeat", "rename", "note", "delete", "diagnose",
    "curves", "compare", "log", "queue",
)  # fmt: skip
OWN_WAY = {
    "queue": queue, "list": list_them, "log": log, "compare": compare, "checkpoints": checkpoints, "resume": resume,
    "delete": delete_them,
}  # fmt: skip
"""Those that read the words after them in their own way."""


def runs(arguments: list[str], language: str) -> int:
    """Do one of the words. Returns the exit code."""
    if not arguments or arguments[0] in ("--help", "-h") or "--help" in arguments:
        print(words("cli.commands.runs", language))
        return 0
    keep()  # whoever minded it may have been killed
    word, names = arguments[0], [name for name in arguments[1:] if not name.startswith("--")]
    if word in OWN_WAY:
        return OWN_WAY[word](arguments[1:], language)
    if word not in WORDS:
        raise UserError("unknown_command", command=f"runs {word}", known=", ".join(WORDS))
    if not names:
        raise UserError("run_name_missing", command=word)
    folder = find(names[0])
    if word == "show":
        print(card(folder, language))
        print_ladder(folder, language)
        print_cause(folder, language, sys.stdout)
        return 0
    if word == "diagnose":
        target = diagnose(folder, Path(names[1] if len(names) > 1 else file_name(folder)))
        print(words("cli.diagnosed", language, path=target))
        return 0
    if word == "curves":
        return write_curves(folder, names[1:], language)
    if word == "watch":
        return stay_with(folder, language, stop_on_interrupt=False)
    if word == "retry":
        return _retry(folder, [each for each in arguments[1:] if each != names[0]], language)
    if word == "repeat":
        return _repeat(folder, "--anyway" in arguments, language)
    if word in ("rename", "note"):
        return say(word, folder, arguments[arguments.index(names[0], 1) + 1 :], language)
    if "--discard" in arguments:
        return discard_it(folder, "--yes" in arguments, language)
    return _stop(folder, "--now" in arguments, language)


def _retry(folder: Folder, arguments: list[str], language: str) -> int:
    """Go on with a run, changed as is said, or so that it needs less memory."""
    retry = retried_job(folder, arguments)
    changes = ", ".join(f"{name}={as_text(value)}" for name, value in retry.changes.items())
    print(words("page.retrying", language, changes=changes))
    return start_and_watch(retry.job, language)


def _repeat(folder: Folder, anyway: bool, language: str) -> int:
    """Do a run again, say what may make it come out otherwise, and at the end whether it did."""
    repeat = repeated_job(folder)
    if repeat.refusals and not anyway:
        raise Refused(repeat.refusals)
    for problem in (*repeat.refusals, *repeat.warnings):
        print(problem.text(language), file=sys.stderr)
    again = submit(repeat.job, language)
    print(told(again, language))
    print(words("cli.ctrl_c" if place_of(again) is None else "cli.queue.ctrl_c", language))
    code = stay_with(again, language, stop_on_interrupt=True)
    if code == 0 and read_state(folder).status == "done":
        step = first_difference(folder, again)
        key = "cli.repeat.same" if step is None else "cli.repeat.differs"
        print(words(key, language, name=folder.name, step=step))
    return code


def _stop(folder: Folder, now: bool, language: str) -> int:
    if read_state(folder).has_ended:
        print(words("cli.already_ended", language, folder=folder.path))
        return 0
    if read_state(folder).is_waiting:
        cancel(folder)
    elif now:
        end_now(folder)
    else:
        ask_to_stop(folder)
        print(words("cli.stopping_run", language))
        while not read_state(folder).has_ended:
            time.sleep(0.2)
    print(words("cli.ended.stopped", language, folder=folder.path))
    return 0
