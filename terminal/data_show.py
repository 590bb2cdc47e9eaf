"""``data show``: rows as they are, or as a model sees them, with what is learned marked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.catalog.checks import problems_on_disk
from engine.catalog.datasets import find_entry
from engine.catalog.pages import page_of_rows
from engine.catalog.rendering import renderer_for
from engine.catalog.seen import seen_rows
from engine.errors import Refused, UserError
from engine.options.jobs import DataJob
from engine.runs.start import PROJECT
from engine.words import words
from terminal.data_words import read_job, read_words

FLAGS = {"limit": 3, "offset": 0, "row": None}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that would move a terminal's cursor or change its colours."""


def show(arguments: list[str], language: str) -> int:
    """Print some rows. Returns the exit code: 1 when one of them cannot be used."""
    given = read_words(arguments, FLAGS, ("json",), has_options=True)
    job, has_model = read_job(given, language)
    first, count = given.number("offset", 0) + 1, given.number("limit")
    if row := given.number("row"):
        first, count = row, 1
    if has_model:
        lines = _with_tokens(job, first, count, language)
    elif job.template:
        lines = _without_model(job, first, count, language)
    else:
        lines = _as_they_are(job, first, count, language)
    is_sound = True
    line = None
    for line in lines:
        is_sound &= "error" not in line
        if given.has("json"):
            print(json.dumps(line, ensure_ascii=False, default=str))
        elif "content" in line:
            print(json.dumps(line["content"], ensure_ascii=False, indent=2, default=str))
        else:
            print(_readable(line, language))
    if line is None and count:
        _, total = page_of_rows(find_entry(Path(job.dataset_dir), job.dataset[0]), 0, 1)
        print(words("page.data.no_such_row", language, total=total or "?"), file=sys.stderr)
        return 1
    return 0 if is_sound else 1


def _as_they_are(job: DataJob, first: int, count: int, language: str) -> Iterator[dict[str, Any]]:
    rows, _ = page_of_rows(find_entry(Path(job.dataset_dir), job.dataset[0]), first - 1, count)
    for number, content in rows:
        is_error = isinstance(content, UserError)
        yield {"row": number, **({"error": content.text(language)} if is_error else {"content": content})}


def _without_model(job: DataJob, first: int, count: int, language: str) -> Iterator[dict[str, Any]]:
    entry = find_entry(Path(job.dataset_dir), job.dataset[0])
    rows, _ = page_of_rows(entry, first - 1, count)
    return seen_rows(job, renderer_for(job, has_model=False), entry, rows, language)


def _with_tokens(job: DataJob, first: int, count: int, language: str) -> Iterator[dict[str, Any]]:
    """From a process of its own, since a tokenizer is heavy.

    Raises:
        Refused: the model or the template is plainly not there.
        UserError: what the process says on standard error.
    """
    if problems := problems_on_disk(job):
        raise Refused(problems)
    request = {"options": job.values(), "first": first, "count": count, "language": language}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.getenv("PYTHONPATH")]))}
    command = [sys.executable, "-m", "engine.work.show"]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, encoding="utf-8", env=environment, check=False
    )
    for line in done.stdout.splitlines():
        yield json.loads(line)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        try:
            told = json.loads(last)
        except ValueError as error:
            raise UserError("unexpected", detail=last) from error
        raise UserError(told["key"], **told["facts"])


def _readable(line: dict[str, Any], language: str) -> str:
    """One row as text: its number, then what is rendered, twice for a preference."""
    parts = [words("cli.row", language, row=line["row"])]
    if "error" in line:
        return "\n".join([*parts, line["error"], ""])
    if "desirable" in line:
        parts[0] += "  " + words("cli.desirable" if line["desirable"] else "cli.undesirable", language)
    for side in ("chosen", "rejected"):
        if side in line:
            parts += [f"--- {words(f'page.roles.{side}', language)}", *_sequence(line[side], language)]
    if "segments" in line:
        parts += _sequence(line, language)
    return "\n".join([*parts, ""])


def _sequence(sequence: dict[str, Any], language: str) -> list[str]:
    begin, end = ("\x1b[1;32m", "\x1b[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    shown = "".join(
        f"{begin}{_plain(part['text'])}{end}" if part["learned"] else _plain(part["text"])
        for part in sequence["segments"]
    )
    if "labels" not in sequence:
        return [shown]
    learned = sum(label >= 0 for label in sequence["labels"])
    return [shown, words("cli.tokens_of_row", language, tokens=len(sequence["input_ids"]), learned=learned)]


def _plain(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))
