"""``data list | show | lint | lengths | register | unregister``: datasets from the terminal."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from pathlib import Path
from typing import Any

from engine.catalog.datasets import registered
from engine.catalog.entry import Columns, Tags, description_of
from engine.catalog.recognise import recognise, unused_columns
from engine.catalog.register import register, unregister
from engine.errors import UserError
from engine.options.command import help_text
from engine.options.jobs import DataJob
from engine.words import words
from terminal.data_words import Words, read_words

WORDS = ("list", "show", "lint", "lengths", "register", "unregister")
WITH_OPTIONS = ("show", "lint", "lengths")


def data(arguments: list[str], language: str) -> int:
    """Do one of the words. Returns the exit code."""
    word, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if word in ("--help", "-h"):
        print(words("cli.commands.data", language))
        return 0
    if word not in WORDS:
        raise UserError("unknown_command", command=f"data {word}", known=", ".join(WORDS))
    if {"--help", "-h"} & set(rest):
        print(_help(word, language))
        return 0
    if word == "show":
        from terminal.data_show import show

        return show(rest, language)
    if word in ("lint", "lengths"):
        from terminal.data_check import lengths, lint

        return (lint if word == "lint" else lengths)(rest, language)
    return {"list": _list, "register": _register, "unregister": _unregister}[word](rest, language)


def _help(word: str, language: str) -> str:
    """What a word does, and the options that it shares with training."""
    told = words(f"cli.data.{word}", language)
    if word not in WITH_OPTIONS:
        return told
    whole = help_text(DataJob, language)
    first_group = "\n\n" + words(f"groups.{DataJob.groups()[0].__name__.lower()}.label", language) + "\n"
    return told + first_group + whole.partition(first_group)[2]


def _list(arguments: list[str], language: str) -> int:
    given = read_words(arguments, {"dataset_dir": "data"}, switches=("json",))
    for name, entry in registered(Path(given.flags["dataset_dir"])).items():
        if given.has("json"):
            print(json.dumps({"name": name, **description_of(entry)}, ensure_ascii=False))
        else:
            place = entry.path or entry.hf_hub_url or entry.ms_hub_url or entry.cloud_file_name or "?"
            print(f"{name:24} {entry.kind:10} {entry.formatting:10} {place}")
    return 0


def _register(arguments: list[str], language: str) -> int:
    given = read_words(
        arguments,
        {"dataset_dir": "data", "name": None, "columns": None, "tags": None, "formatting": None},
        switches=("ranking", "replace"),
    )
    path = Path(given.name or "").expanduser()
    if not given.name or not given.flags["name"]:
        raise UserError("register_needs", missing="--name" if given.name else "FILE")
    folder, name = Path(given.flags["dataset_dir"]), given.flags["name"]
    if not path.exists():
        raise UserError("dataset_file_missing", path=path)
    said = _said(given)
    recognised = None if said else recognise(path)
    description = {**(description_of(recognised) if recognised else said), "file_name": _file_name(path, folder)}
    registration = register(folder, name, description, replace=given.has("replace"))
    print(words("cli.registered", language, name=name, folder=folder, entry=registration.after))
    unused = unused_columns(path, recognised) if recognised else []
    if unused:
        print(words("cli.unused_columns", language, columns=", ".join(unused)), file=sys.stderr)
    return 0


def _said(given: Words) -> dict[str, Any]:
    """What was typed of the file; nothing: its rows are looked at."""
    said = {
        "formatting": given.flags["formatting"],
        "ranking": True if given.has("ranking") else None,
        "columns": _pairs(given, "columns", Columns),
        "tags": _pairs(given, "tags", Tags),
    }
    return {key: value for key, value in said.items() if value}


def _file_name(path: Path, folder: Path) -> str:
    inside = path.resolve().is_relative_to(folder.resolve())
    return path.resolve().relative_to(folder.resolve()).as_posix() if inside else str(path.absolute())


def _pairs(given: Words, flag: str, known: type) -> dict[str, str]:
    """``prompt=question,response=answer`` as a mapping; a name that is not known is refused with the nearest."""
    found = {}
    names = [field.name for field in dataclasses.fields(known)]
    for pair in filter(None, (given.flags[flag] or "").split(",")):
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in names or not value:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5) if key not in names else [f"{key}=…"]
            raise UserError("register_pair", flag=flag, pair=pair, choices=near[0] if near else ", ".join(names))
        found[key] = value
    return found


def _unregister(arguments: list[str], language: str) -> int:
    given = read_words(arguments, {"dataset_dir": "data"})
    if not given.name:
        raise UserError("dataset_missing")
    unregister(Path(given.flags["dataset_dir"]), given.name)
    print(words("cli.unregistered", language, name=given.name, folder=given.flags["dataset_dir"]))
    return 0
