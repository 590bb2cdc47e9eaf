"""``data list | show``: the registered datasets and their rows."""

from __future__ import annotations

import json
from pathlib import Path

from engine.catalog.datasets import find_entry, page_of_rows, registered
from engine.errors import UserError
from engine.words import words


def data(arguments: list[str], language: str) -> int:
    """Do one of the words. Returns the exit code."""
    if not arguments or "--help" in arguments or arguments[0] == "-h":
        print(words("cli.commands.data", language))
        return 0
    word, names, flags = arguments[0], *_split(arguments[1:])
    folder = Path(flags.get("dataset_dir", "data"))
    if word == "list":
        for name, entry in registered(folder).items():
            print(f"{name:24} {entry.formatting:10} {entry.path or '?'}")
        return 0
    if word != "show":
        raise UserError("unknown_command", command=f"data {word}", known="list, show")
    if not names:
        raise UserError("dataset_missing")
    try:
        limit = int(flags.get("limit", 3))
    except ValueError as error:
        raise UserError("not_an_integer", option="limit", value=flags["limit"]) from error
    rows, _ = page_of_rows(find_entry(folder, names[0]), 0, limit)
    for row in rows:
        print(json.dumps(row, ensure_ascii=False, indent=2, default=str))
    return 0


def _split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Names, and flags with their values."""
    names, flags, rest = [], {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value if equals else (rest.pop(0) if rest else "")
        else:
            names.append(word)
    return names, flags
