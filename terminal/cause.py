"""Why a run ended before its time, as text: the kind of cause, the sentence, what to do, and the end of the log."""

from __future__ import annotations

import sys
from typing import TextIO

from engine.runs.cause import cause_of, last_lines
from engine.runs.folder import Folder
from engine.words import words


def print_cause(folder: Folder, language: str, file: TextIO | None = None) -> None:
    """Print it; nothing, where the run has not failed. On the standard error where no file is named."""
    cause = cause_of(folder)
    if cause is None:
        return
    lines = [words("causes.is", language, label=cause.label(language)), cause.sentence(language)]
    if advice := cause.advice(language):
        lines.append(advice)
    if end := last_lines(folder):
        lines += ["", words("causes.log_end", language), *(f"  {line}" for line in end.splitlines()), ""]
    lines.append(words("cli.log_is_in", language, path=folder.log))
    print("\n".join(lines), file=file or sys.stderr, flush=True)
