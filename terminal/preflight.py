"""``preflight``: whether a training fits, what would make it fit, and how long it takes; its arguments are train's."""

from __future__ import annotations

import shutil

from engine.catalog.devices import devices, memory_text
from engine.catalog.memory import Estimate
from engine.options.jobs import PreflightJob
from engine.runs.known_lengths import known_lengths
from engine.runs.preflight import Answer, preflight
from engine.runs.preflight_words import (
    assumption_words,
    change_options,
    change_words,
    disk_words,
    measured_words,
    verdict_words,
)  # fmt: skip
from engine.runs.start import start
from engine.words import words
from terminal.watch import stay_with

FILLED = "█▓▒░▚▞▤▦"
"""One letter for each part of the bar, in the order of the list below it."""


def run_preflight(job: PreflightJob, language: str) -> int:
    """Print the answer. Returns the exit code: 1 when it does not fit, or when what was tried failed."""
    if job.smoke or (job.count_lengths and known_lengths(job) is None):
        folder = start(job, language)
        print(words("cli.started", language, folder=folder.path))
        code = stay_with(folder, language, stop_on_interrupt=True)
        if code:
            return code
    answer = preflight(job, devices())
    for line in report(answer, language):
        print(line)
    return 1 if answer.estimate is not None and answer.estimate.verdict == "too_big" else 0


def report(answer: Answer, language: str) -> list[str]:
    """The answer, line by line."""
    lines = [verdict_words(answer, language), ""]
    if answer.estimate is not None:
        lines += _bar(answer.estimate, language)
        lines += ["", *(f"- {line}" for line in assumption_words(answer, language))]
    lines += [f"- {line}" for line in (*measured_words(answer, language), disk_words(answer, language)) if line]
    if answer.estimate is not None and answer.estimate.verdict == "too_big" and not answer.changes:
        lines += ["", words("preflight.no_changes", language)]
    if answer.changes:
        lines += ["", words("preflight.changes", language)]
        lines += [
            f"  {number}. {change_options(change)}\n     {change_words(change, language)}"
            for number, change in enumerate(answer.changes, start=1)
        ]
    return lines


def _bar(found: Estimate, language: str) -> list[str]:
    """All parts in one bar, as wide as what is free (or needed, if that is more); then each with its size."""
    width = min(72, shutil.get_terminal_size().columns - 4)
    whole = max(found.peak_bytes, found.free_bytes)
    drawn = ""
    lines = []
    at = 0
    for letter, (name, size) in zip(FILLED, found.parts.items(), strict=False):
        at += size
        drawn += letter * (round(at / whole * width) - len(drawn))
        label = words(f"preflight.parts.{name}", language)
        lines.append(f"  {letter} {memory_text(size):>9}  {label}")
    return [f"  {drawn.ljust(width, '·')}", *lines, f"  = {memory_text(found.peak_bytes):>9}"]
