"""``runs list``: which runs there are, narrowed down and sorted."""

from __future__ import annotations

import json
import time
import unicodedata
from dataclasses import asdict

from engine.errors import UserError
from engine.runs.listing import COLUMNS, Listed, filtered, listed, ordered
from engine.runs.queue import place_of
from engine.words import words

SHOWN = ("train", "export", "gguf")
VALUED = ("status", "kind", "sort")
SWITCHES = ("reverse", "json")


def list_them(arguments: list[str], language: str) -> int:
    """Print the runs that the words and flags let pass. Returns the exit code."""
    text, said = _sort_out(arguments)
    column = said.get("sort") or "started"
    if column not in COLUMNS:
        raise UserError("runs_sort_unknown", column=column, known=", ".join(COLUMNS))
    everything = listed(*SHOWN)
    rows = filtered(everything, text, _parts(said.get("status", "")), _parts(said.get("kind", "")))
    if "sort" in said or "reverse" in said:
        rows = ordered(rows, column, "reverse" in said)
    if "json" in said:
        print(json.dumps([_plain(row) for row in rows], ensure_ascii=False, indent=1))
        return 0
    if not everything:
        print(words("cli.no_runs", language))
    for row in rows:
        print(_line(row, language))
    if len(rows) < len(everything):
        print(words("cli.run_list.count", language, shown=len(rows), all=len(everything)))
    return 0


def _line(row: Listed, language: str) -> str:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started)) if row.started else ""
    steps = f"{row.step}/{row.total_steps}" if row.total_steps else ""
    if row.status == "queued":
        steps = f"#{place_of(row.folder) or '?'}"
    loss = f"loss {row.loss:.4f}" if row.loss is not None else ""
    status = words(f"page.status.{row.status}", language)
    title = f'  "{row.title}"' if row.title else ""
    return f"{started:16}  {row.kind:7} {_padded(status, 12)} {steps:>11} {loss:12} {row.name}{title}"


def _plain(row: Listed) -> dict[str, object]:
    return {**asdict(row), "folder": str(row.folder.path)}


def _sort_out(arguments: list[str]) -> tuple[str, dict[str, str]]:
    """The text to look for, and what the flags say."""
    sought, said, left = [], {}, list(arguments)
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            sought.append(word)
        elif name in SWITCHES:
            said[name] = ""
        elif name not in VALUED:
            raise UserError("unexpected_word", word=word)
        elif not equals and not left:
            raise UserError("flag_without_value", flag=name)
        else:
            said[name] = value if equals else left.pop(0)
    return " ".join(sought), said


def _parts(said: str) -> list[str]:
    return [part.strip() for part in said.split(",") if part.strip()]


def _padded(text: str, columns: int) -> str:
    """A text as wide as so many columns of a terminal, in which a Chinese, Japanese or Korean letter takes two."""
    width = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    return text + " " * max(0, columns - width)
