"""A comparison in words: what page and terminal say alike of outcomes and differences."""

from __future__ import annotations

from collections.abc import Sequence

from engine.runs.compare import NO_VALUE, SAME_LOSS, Outcome, Run, not_ranked, outcome
from engine.runs.times import clock
from engine.words import words

FIGURES = ("status", "steps", "loss", "eval_best", "duration_s", "tokens_per_s", "peak_memory_bytes")
"""What is told of each run, in this order; also the keys of the headings below ``page.compare``."""


def figure_words(name: str, each: Outcome, language: str) -> str:
    """One of ``FIGURES``."""
    if name == "status":
        return words(f"page.status.{each.status}", language)
    if name == "steps":
        return f"{each.step} / {each.total_steps}" if each.total_steps else NO_VALUE
    value = getattr(each, name)
    if value is None:
        return NO_VALUE
    if name == "loss":
        return f"{value:.4g}"
    if name == "eval_best":
        return words("page.compare.at_step", language, value=f"{value[1]:.4g}", step=f"{value[0]:.0f}")
    if name == "tokens_per_s":
        return f"{value:,.0f}"
    if name == "peak_memory_bytes":
        return f"{value / 1e9:.2f} GB"
    since = words("page.compare.from_step", language, step=each.from_step) if each.from_step else ""
    return f"{clock(value)} {since}".rstrip()


def notes(runs: Sequence[Run], language: str) -> list[str]:
    """Which jobs cannot be read, and why no loss is marked as the best."""
    unread = [run.label for run in runs if run.job is None]
    if unread:
        return [words("page.compare.unread", language, names=", ".join(unread))]
    logged = [name for name in SAME_LOSS if sum(getattr(outcome(run), name) is not None for run in runs) > 1]
    names = dict.fromkeys(option for name in logged for option in not_ranked(runs, name))
    return [words("page.compare.not_ranked", language, names=", ".join(names))] if names else []


def group_words(group: str, language: str) -> str:
    return words(f"page.compare.groups.{group}", language)
