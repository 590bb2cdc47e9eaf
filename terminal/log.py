"""``runs log NAME``: the end of a run's log, or the lines of it that hold a text; with --follow as they come."""

from __future__ import annotations

import time

from engine.errors import UserError
from engine.runs.folder import Folder
from engine.runs.log import Hit, Part, read_part, search
from engine.runs.read import read_state
from engine.words import words
from terminal.names import find

INTERVAL_S = 0.5
LINES = 50
LINE_BYTES = 400
"""So long lines are taken to be, where the end of the log is looked for; if they are longer, more of it is read."""
MOST_BYTES = 1 << 24


def log(arguments: list[str], language: str) -> int:
    """Print lines of a log. Returns the exit code: 1, if a text was sought and is nowhere.

    Raises:
        UserError: no name, no such run, or a number of lines that is none.
    """
    names, text, lines, follows = _sorted_out(arguments)
    if not names:
        raise UserError("run_name_missing", command="log")
    folder = find(names[0])
    try:
        return _found(folder, text, follows, language) if text else _printed(folder, lines, follows)
    except KeyboardInterrupt:
        return 0


def _sorted_out(arguments: list[str]) -> tuple[list[str], str, int, bool]:
    """Name, text, number of lines, and whether to follow; ``--lines 5`` and ``--lines=5`` alike."""
    names, values, follows = [], {"--search": "", "--lines": str(LINES)}, False
    rest = iter(arguments)
    for each in rest:
        flag, equals, value = each.partition("=")
        if flag in values:
            values[flag] = value if equals else next(rest, "")
        elif each == "--follow":
            follows = True
        else:
            names.append(each)
    if not values["--lines"].isdecimal():
        raise UserError("log.lines", value=values["--lines"])
    return names, values["--search"], int(values["--lines"]), follows


def _printed(folder: Folder, lines: int, follows: bool) -> int:
    part = _last_lines(folder, lines)
    shown = part.text.rstrip("\n").split("\n")[-lines:] if lines else []
    print("\n".join(shown), flush=True)
    end = part.end
    while follows:
        is_over = read_state(folder).has_ended  # before the reading: what came last is in it
        new = read_part(folder, MOST_BYTES, end)
        end = new.end
        if new.text:
            print(new.text, end="", flush=True)
        elif is_over:
            break
        else:
            time.sleep(INTERVAL_S)
    return 0


def _last_lines(folder: Folder, lines: int) -> Part:
    most = max(4096, lines * LINE_BYTES)
    part = read_part(folder, most)
    while part.begin and part.text.count("\n") <= lines and most < MOST_BYTES:
        most *= 4
        part = read_part(folder, most)
    return part


def _found(folder: Folder, text: str, follows: bool, language: str) -> int:
    told = 0
    while True:
        is_over = not follows or read_state(folder).has_ended
        found = search(folder, text)
        for hit in found.hits:
            if hit.line > told:
                _tell(hit)
                told = hit.line
        if found.is_whole and is_over:
            break
        if found.is_whole:
            time.sleep(INTERVAL_S)
    print(words("cli.log.count", language, count=found.count))
    return 0 if found.count else 1


def _tell(hit: Hit) -> None:
    print(f"{hit.line}: {hit.text}", flush=True)
