"""Which of two answers people found better: kept in the folder of each run that gave one, and summed up."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from engine.runs.folder import Folder
from engine.runs.record import append_line
from engine.runs.sides import BASE, run_of, side_name

Choice = Literal["left", "right", "tie", "bad"]
PLACES = ("left", "right")


@dataclass(frozen=True)
class Round:
    """One question put to two sides.

    Args:
        sides: "base" or an adapter's folder, the left one first; answers: what they said.
        sampling: the options they had in common, the seed among them.
        is_blind: whether the names were hidden until the vote.
    """

    prompt: str
    system: str | None
    sampling: dict[str, Any]
    sides: tuple[str, str]
    answers: tuple[str, str]
    is_blind: bool


@dataclass(frozen=True)
class Tally:
    """How often one of a run's answers won against another side's."""

    own: str
    other: str
    wins: int
    losses: int
    ties: int
    both_bad: int


def cast(vote: Choice, given: Round) -> list[Folder]:
    """Note a vote in the folder of every run that had a side. Returns these; none, if no adapter was of a run here."""
    runs = [None if side == BASE else run_of(side) for side in given.sides]
    told = {
        name: {"side": side_name(side), "answer": answer}
        for name, side, answer in zip(PLACES, given.sides, given.answers, strict=True)
    }
    folders = list(dict.fromkeys(run for run in runs if run is not None))
    for folder in folders:
        own = [name for name, run in zip(PLACES, runs, strict=True) if run == folder]
        append_line(folder.votes, {
            "time": round(time.time(), 3), "vote": vote, "prompt": given.prompt, "system": given.system,
            "sampling": given.sampling, "blind": given.is_blind, "own": own, **told,
        })  # fmt: skip
    return folders


def tallies(folder: Folder) -> list[Tally]:
    """The votes on a run's answers, by who gave them and whom they stood against."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for vote in _votes(folder):
        try:
            own = vote["own"][0]
            if len(vote["own"]) == 2:  # two checkpoints of this run: always seen from the same one
                own = min(PLACES, key=lambda name: vote[name]["side"])
            other = "right" if own == "left" else "left"
            outcome = {own: "wins", other: "losses", "tie": "ties", "bad": "both_bad"}[vote["vote"]]
            pair = vote[own]["side"], vote[other]["side"]
        except (KeyError, IndexError, TypeError):
            continue
        counts.setdefault(pair, Counter())[outcome] += 1
    outcomes = ("wins", "losses", "ties", "both_bad")
    return [Tally(*pair, *(count[name] for name in outcomes)) for pair, count in sorted(counts.items())]


def _votes(folder: Folder) -> list[dict[str, Any]]:
    try:
        lines = folder.votes.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the torn line of a writer that was killed
    return found
