"""What the page lets a browser name: paths below the folders that it was started with, and nothing else on the disk.

Set once, before the page is served; what is typed on a command line is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog.datasets import Entry, find_entry
from engine.errors import Problem, Refused, UserError
from engine.options.base import Options
from engine.options.option import about
from engine.options.serve import Serve
from engine.runs.folder import SAVES, all_folders

STANDARD = ("data", "models", "outputs", SAVES.name)
"""Folders of the working directory that may be links to another disk: whoever starts the page made them so."""
WRITTEN = frozenset((
    "output_dir", "export_dir", "outfile", "rejects", "clean", "tokenized_path", "cache_dir", "swanlab_logdir",
))  # fmt: skip
"""Path options that something is written to."""
NAMED = ("dataset", "eval_dataset", "task")
"""Options that take a path where they might take a name."""
PROGRAM = Path(__file__).resolve().parents[2]
LONGEST, LONGEST_NAME = 4000, 255
"""Of a path in characters, of a name in bytes."""
ODD = re.compile(r"[\x00-\x1f\x7f]|://")


@dataclass(frozen=True)
class Allowed:
    """Args:
    roots: folders with all below them, links resolved.
    secrets: files and folders among them that nobody is shown.
    remote_code: whether a model may bring code of its own.
    """

    roots: tuple[Path, ...]
    secrets: tuple[Path, ...] = ()
    remote_code: bool = False


_allowed: Allowed | None = None


def allow(allowed: Allowed | None) -> None:
    """From now on; None: what stands in ``allowed_by`` for a page that was started without a word."""
    global _allowed
    _allowed = allowed


def allowed_by(job: Serve, has_door: bool) -> Allowed:
    """What the command line says: the working directory, the folders it names, and where no others come in, home.

    Raises:
        UserError: one of the folders is not there; or code of models is allowed, and others can reach the page.
    """
    if has_door and job.trust_remote_code:
        raise UserError("access.remote_code_shared")
    here = Path.cwd()
    named = [Path(each).expanduser() for each in job.roots]
    for folder in named:
        if not folder.is_dir():
            raise UserError("access.root_missing", path=folder)
    home = [] if has_door else [_home()]
    links = [here / name for name in STANDARD if (here / name).is_dir()]
    roots = dict.fromkeys(each.resolve() for each in (here, *links, *home, *named) if each is not None)
    return Allowed(tuple(roots), secret_files(job), job.trust_remote_code)


def secret_files(job: Serve) -> tuple[Path, ...]:
    """The accounts, and the folder of who has signed in."""
    accounts = [Path(job.auth_file).expanduser().resolve()] if job.auth_file else []
    return (*accounts, (SAVES / ".access").resolve())


def trusts_remote_code() -> bool:
    return _now().remote_code


def allowed_path(text: str | None, is_written: bool = False) -> Path:
    """The path that a browser named, as it was written; "" is the working directory.

    Raises:
        UserError: it is no plain path, or leads to where this page does not go.
    """
    said, allowed = (text or ".").strip(), _now()
    shown = ODD.sub(lambda found: found[0] if "/" in found[0] else "�", said)
    if ODD.search(said) or said.startswith("-") or _is_too_long(said):
        raise UserError("access.path_sign", path=shown)
    if ".." in re.split(r"[/\\]", said):
        raise UserError("access.path_up", path=shown)
    try:
        path = Path(said).expanduser()
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, nobody's home, no text
        raise UserError("access.path_sign", path=shown) from error
    roots = [root for root in allowed.roots if real.is_relative_to(root)]
    if not roots and not any(real.is_relative_to(run.path.resolve()) for run in all_folders()):
        raise UserError("access.path_outside", path=shown, folders=", ".join(map(str, allowed.roots)))
    is_hidden = roots and all(_is_hidden(real.relative_to(root)) for root in roots)
    if is_hidden or any(real.is_relative_to(secret) for secret in allowed.secrets):
        raise UserError("access.path_hidden", path=shown)
    if is_written and _is_program(real):
        raise UserError("access.path_program", path=shown)
    return path


def allowed_entry(folder: str | None, name: str) -> Entry:
    """The dataset of that name, or of that path.

    Raises:
        UserError: there is none, or folder or file are none that this page goes to.
    """
    place = allowed_path(folder)
    allowed_path(name)
    entry = find_entry(place, name)
    if entry.path is not None:
        allowed_path(str(entry.path))
    return entry


def allowed_values(job_type: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a browser asks of a job, with what the page's own start says of it.

    Args:
        values: by option, as they were typed; not validated.

    Raises:
        Refused: one problem for each path that this page does not go to. Nothing else is told beside them: to find out
            more would be to look there.
    """
    if problems := _path_problems(job_type, values):
        raise Refused(problems)
    trusted = trusts_remote_code() and "trust_remote_code" in job_type.model_fields
    return {**values, "trust_remote_code": True} if trusted else dict(values)


def _path_problems(job_type: type[Options], values: Mapping[str, Any]) -> list[Problem]:
    found = []
    for name, value in values.items():
        field = job_type.model_fields.get(name)
        if field is None or not (about(field, "control") == "path" or name in NAMED):
            continue
        for text in _texts(value):
            try:
                allowed_path(text, name in WRITTEN)
            except UserError as error:
                found.append(Problem(error.key, name, error.facts))
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [each for each in value if isinstance(each, str) and each]
    return [each for each in value.split(",") if each.strip()] if isinstance(value, str) else []


def _now() -> Allowed:
    return _allowed or allowed_by(Serve(), has_door=False)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _is_too_long(said: str) -> bool:
    """Whether no disk could have it: asking for it would be a fault of the system's."""
    return len(said) > LONGEST or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in said.split("/"))


def _is_hidden(path: Path) -> bool:
    """Whether a path goes through what a folder does not show: keys and settings lie there, but also fetched models."""
    return any(part.startswith(".") for part in path.parts if part != ".cache")


def _is_program(real: Path) -> bool:
    """Whether a path is one of the program's own files, or a folder that holds them."""
    if not real.is_relative_to(PROGRAM):
        return PROGRAM.is_relative_to(real)
    inside = real.relative_to(PROGRAM).parts
    return not inside or (inside[0] not in STANDARD and inside[0] in _own())


def _own() -> frozenset[str]:
    return frozenset(each.name for each in PROGRAM.iterdir() if (each / "__init__.py").is_file() or each.is_file()) | {
        "locales", "tests", "docs", "benchmarks",
    }  # fmt: skip
