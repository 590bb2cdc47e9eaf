"""``runs list``: which runs there are, narrowed down and sorted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict

from engine.errors import UserError
from engine.runs.listing import COLUMNS, Listed, filtered, listed, ordered
from engine.runs.queue import place_of
from engine.runs.times import clock
from engine.words import words
from terminal.columns import aligned

SHOWN = ("train", "eval", "export", "gguf")
STATUSES = ("queued", "starting", "running", "stopping", "done", "failed", "stopped", "lost")
HEADS = (
    "started", "kind", "status", "progress", "loss", "best_eval_loss", "duration", "size_bytes", "name", "model",
)  # fmt: skip
VALUED = ("status", "kind", "sort")
SWITCHES = ("reverse", "json")


def list_them(arguments: list[str], language: str) -> int:
    """Print the runs that the words and flags let pass. Returns the exit code."""
    text, said = _sort_out(arguments)
    column = said.get("sort") or "started"
    if column not in COLUMNS:
        raise UserError("runs_sort_unknown", column=column, known=", ".join(COLUMNS))
    statuses, kinds = _parts(said.get("status", ""), STATUSES, "status"), _parts(said.get("kind", ""), SHOWN, "kind")
    everything = listed(*SHOWN)
    rows = filtered(everything, text, statuses, kinds)
    if "sort" in said or "reverse" in said:
        rows = ordered(rows, column, "reverse" in said)
    if "json" in said:
        print(json.dumps([_plain(row) for row in rows], ensure_ascii=False, indent=1))
        return 0
    if not everything:
        print(words("cli.no_runs", language))
    elif rows:
        heads = [words(f"page.runs.{name}", language) for name in HEADS]
        print("\n".join(aligned([heads, *(_cells(row, language) for row in rows)])))
    if len(rows) < len(everything):
        print(words("cli.run_list.count", language, shown=len(rows), all=len(everything)))
    return 0


def _cells(row: Listed, language: str) -> list[str]:
    steps = f"{row.step}/{row.total_steps}" if row.total_steps else "–"
    if row.status == "queued":
        steps = f"#{place_of(row.folder) or '?'}"
    return [
        time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started)) if row.started else "–",
        words(f"page.kinds.{row.kind}", language),
        words(f"page.status.{row.status}", language),
        steps,
        _number(row.loss),
        _number(row.best_eval_loss),
        clock(row.duration) if row.duration is not None else "–",
        f"{row.size_bytes / 1e6:.1f} MB",
        f'{row.name}  "{row.title}"' if row.title else row.name,
        " · ".join(filter(None, (row.model, row.method, ", ".join(row.datasets)))) or "–",
    ]


def _number(value: float | None) -> str:
    return f"{value:.4f}" if value is not None else "–"


def _plain(row: Listed) -> dict[str, object]:
    """What strict JSON can hold: a loss that is no number is null there."""
    plain = {**asdict(row), "folder": str(row.folder.path)}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()
    }


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


def _parts(said: str, known: Sequence[str], flag: str) -> list[str]:
    """The words between the commas. Raises: UserError, for one that is none of the known."""
    found = [part.strip() for part in said.split(",") if part.strip()]
    for part in found:
        if part not in known:
            raise UserError("runs_filter_unknown", flag=flag, value=part, known=", ".join(known))
    return found
