"""``runs compare``: what came out of several trainings, and in what they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.runs.compare import (
    RANKED,
    Difference,
    Run,
    best,
    compared,
    differing_facts,
    differing_options,
    outcome,
)
from engine.runs.compare_words import FIGURES, figure_words, group_words, notes
from engine.runs.curves import write_csv
from engine.runs.overlay import columns, overlays
from engine.runs.plot import save_overlays
from engine.words import words
from terminal.columns import aligned, shortened
from terminal.names import find

FILES = ("png", "csv")
WIDEST = 48
"""Columns that a value may take; with ``--json`` it is whole."""


def compare(arguments: list[str], language: str) -> int:
    """Print the comparison, or write its curves. Returns the exit code.

    Raises:
        UserError: too few or too many runs, one that is unknown or no training, or a file that cannot be written.
    """
    names, said = _sort_out(arguments)
    runs = compared(map(find, names))
    for ending in FILES:
        if ending in said:
            _write(runs, Path(said[ending]), ending, language)
    if "json" in said:
        print(json.dumps(_plain(runs), ensure_ascii=False, indent=1))
    elif not said:
        print("\n".join(_lines(runs, language)))
    return 0


def _lines(runs: Sequence[Run], language: str) -> list[str]:
    """Both tables; the runs have numbers, so that a table of many stays narrow."""
    outcomes = [outcome(run) for run in runs]
    leaders = best(runs, outcomes)
    head = ["", *(words(f"page.compare.{name}", language) for name in FIGURES), words("page.runs.name", language)]
    rows = [
        [
            str(run.place + 1),
            *(
                figure_words(name, each, language) + (" *" if index in leaders.get(name, ()) else "")
                for name in FIGURES
            ),
            run.folder.name,
        ]
        for index, (run, each) in enumerate(zip(runs, outcomes, strict=True))
    ]
    lines = aligned([head, *rows])
    if any(leaders.values()):
        lines.append("* " + words("page.compare.best", language))
    lines += notes(runs, language)
    options, facts = differing_options(runs), differing_facts(runs)
    lines += ["", words("page.compare.headings.options" if options else "page.compare.no_options", language)]
    lines += _differences(options, runs, language)
    if options:
        lines.append(words("page.compare.no_effect", language))
    if facts:
        lines += ["", words("page.compare.headings.facts", language), *_differences(facts, runs, language)]
    return lines


def _differences(found: Sequence[Difference], runs: Sequence[Run], language: str) -> list[str]:
    if not found:
        return []
    head = ["", *(str(run.place + 1) for run in runs)]
    rows = [
        [_named(each, language), *(shortened("?" if value is None else value, WIDEST) for value in each.values)]
        for each in found
    ]
    return aligned([head, *rows])


def _named(each: Difference, language: str) -> str:
    if each.group == "options":
        return each.name
    return ": ".join(filter(None, (group_words(each.group, language), each.name)))


def _plain(runs: Sequence[Run]) -> dict[str, Any]:
    """All of it as JSON: names of runs as keys, values as they are typed; null is what is not known."""
    outcomes = [outcome(run) for run in runs]
    leaders = best(runs, outcomes)
    told = [
        {
            "name": run.folder.name, "folder": str(run.folder.path), "is_readable": run.job is not None,
            **{key: _finite(value) for key, value in asdict(each).items()},
            "best": [name for name in RANKED if index in leaders[name]],
        }
        for index, (run, each) in enumerate(zip(runs, outcomes, strict=True))
    ]  # fmt: skip
    by_run = {
        group: {
            (each.name if group == "options" else f"{each.group}/{each.name}".rstrip("/")): dict(
                zip((run.folder.name for run in runs), each.values, strict=True)
            )
            for each in found
        }
        for group, found in (("options", differing_options(runs)), ("facts", differing_facts(runs)))
    }
    return {"runs": told, **by_run}


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is no number is told as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write(runs: Sequence[Run], path: Path, ending: str, language: str) -> None:
    if path.suffix.lower() != f".{ending}":
        raise UserError("compare.ending", path=path, ending=f".{ending}")
    if not overlays(runs, language):
        raise UserError("compare.no_curves")
    try:
        if ending == "csv":
            write_csv(columns(runs), path)
        else:
            save_overlays(runs, path, language)
    except OSError as error:
        raise UserError("curves.not_written", path=path, detail=error.strerror or str(error)) from error
    print(words("cli.compare.written", language, path=path))


def _sort_out(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names of the runs, and what the flags say."""
    names, said, left = [], {}, list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            names.append(word)
        elif flag == "json":
            said["json"] = ""
        elif flag not in FILES:
            raise UserError("unexpected_word", word=word)
        elif not equals and not left:
            raise UserError("flag_without_value", flag=flag)
        else:
            said[flag] = value if equals else left.pop(0)
    return names, said
