"""``runs curves NAME FILE``: the curves of a run as a table or as a picture."""

from __future__ import annotations

from pathlib import Path

from engine.errors import UserError
from engine.runs.curves import write_csv
from engine.runs.folder import Folder
from engine.runs.plot import save_charts
from engine.runs.progress import watch
from engine.words import words


def write_curves(folder: Folder, names: list[str], language: str) -> int:
    """Write all points (.csv) or all charts (.png). Returns the exit code.

    Args:
        names: the file, as it was typed; its ending says what it becomes.

    Raises:
        UserError: no file, another ending, no curve yet, or it cannot be written.
    """
    path = Path(names[0] if names else "")
    if path.suffix.lower() not in (".csv", ".png"):
        raise UserError("curves.ending", path=path.name or "–")
    curves = watch(folder).curves
    if not curves:
        raise UserError("curves.none", name=folder.name)
    try:
        if path.suffix.lower() == ".csv":
            write_csv(curves, path)
        else:
            save_charts(curves, path, language)
    except OSError as error:
        raise UserError("curves.not_written", path=path, detail=error.strerror or str(error)) from error
    print(words("cli.curves.written", language, path=path))
    return 0
