"""The run that a person means by a name typed in the terminal."""

from __future__ import annotations

from engine.errors import UserError
from engine.runs.folder import Folder, find_folder


def find(name: str) -> Folder:
    """Raises: UserError, with the candidates where several runs have that name."""
    try:
        return find_folder(name)
    except LookupError as error:
        if error.args:
            raise UserError("run_ambiguous", name=name, candidates=", ".join(error.args)) from error
        raise UserError("run_unknown", name=name) from error
