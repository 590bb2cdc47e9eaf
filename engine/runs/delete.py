"""Deleting a run: what would go and what would stay, and then so that no half of it is ever taken for a run.

What was begun is noted in ``saves/.deletions`` first, so that a deletion that is cut off is carried to its end later.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from engine.errors import UserError
from engine.runs.contents import contents
from engine.runs.folder import DELETIONS, SAVES, Folder, all_folders
from engine.runs.queue import cancel, had_begun
from engine.runs.read import is_alive, read_state
from engine.runs.record import write_text
from engine.runs.start import link_to, take_lock
from engine.runs.stop import end_now

OUTPUTS = ("output_dir", "export_dir", "outfile")
"""Options that name a place to write to: whoever names a path there does not need what lies in it."""


@dataclass(frozen=True)
class Freed:
    """What a deletion does.

    Args:
        identity: when the run began or was submitted; another one at the same place has another.
        checkpoints: their names, the earliest first.
        stays: what lies in the folder and is not ours, with a slash at the end of a folder.
        needed_by: names of other runs whose job names something in the folder.
        comes_back: it waits in the queue, and had been begun before: taken out, it is that run again, nothing goes.
    """

    folder: Folder
    identity: float | None
    size_bytes: int
    files: int
    checkpoints: tuple[str, ...]
    stays: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()
    comes_back: bool = False


def freed(folder: Folder) -> Freed:
    """Look what would go. Nothing is changed.

    Raises:
        UserError: there is no run any more.
    """
    try:
        state, found = read_state(folder), contents(folder)
    except FileNotFoundError as error:
        raise UserError("run_unknown", name=folder.name) from error
    return Freed(
        folder,
        state.started_at or state.submitted_at,
        found.size_bytes,
        found.files,
        tuple(path.name for path in folder.checkpoints() if not path.is_symlink()),
        found.foreign,
        tuple(sorted(each.name for each, names in _naming(folder) if names - set(OUTPUTS))),
        state.is_waiting and had_begun(folder),
    )


def refuse_in_use(folder: Folder) -> None:
    """Raises: UserError, if the run is alive or waits, or a living run works with something in its folder."""
    if is_alive(folder):
        raise UserError("delete.alive", name=folder.name)
    if read_state(folder).is_waiting:
        raise UserError("delete.waits", name=folder.name)
    _refuse_used(folder)


def delete(folder: Folder, shown: Freed | None = None) -> Freed:
    """Delete a run; what is not ours stays, and so does a folder that holds any of it.

    Args:
        shown: what was told to the one who agreed; another run that has taken the place since is not deleted.

    Returns:
        What has gone, and what stays.

    Raises:
        UserError: the run is in use, gone already, or not the one that was shown; something could not be removed.
    """
    with _one_at_a_time():
        _carry_on()
        told = freed(folder)
        if shown is not None and shown.identity != told.identity:
            raise UserError("delete.changed", name=folder.name)
        refuse_in_use(folder)
        try:
            with folder.lock.open("ab+") as lock:
                take_lock(lock, folder)
                if read_state(folder).is_waiting:  # whoever submits a run holds its lock too
                    raise UserError("delete.waits", name=folder.name)
                _remove(folder)
        except OSError as error:
            raise UserError("delete.failed", name=folder.name, detail=_detail(error)) from error
    return told


def discard(folder: Folder, shown: Freed | None = None) -> Freed | None:
    """Stop a run at once and throw away what it left. A run that waits is taken out of the queue.

    Returns:
        What has gone; None: it waited, had been begun before, and is that run again.

    Raises:
        UserError: as :func:`delete`; its processes could not be ended.
    """
    if shown is not None and shown.identity != freed(folder).identity:
        raise UserError("delete.changed", name=folder.name)
    if read_state(folder).is_waiting and _is_again_what_it_was(folder):
        return None
    _refuse_used(folder)
    end_now(folder)
    if is_alive(folder):
        raise UserError("delete.not_ended", name=folder.name)
    return delete(folder)


def finish_deletions() -> None:
    """Carry to their end all deletions that were cut off."""
    if DELETIONS.is_dir():
        with _one_at_a_time():
            _carry_on()


def _refuse_used(folder: Folder) -> None:
    for each, _ in _naming(folder):
        if is_alive(each):
            raise UserError("delete.in_use", name=folder.name, user=each.name)


def _is_again_what_it_was(folder: Folder) -> bool:
    try:
        return cancel(folder)
    except UserError:
        if read_state(folder).is_waiting:
            raise
        return False  # its turn came just now


def _remove(folder: Folder) -> None:
    """Take the run out of sight in one step, then remove it. The caller holds the run's lock."""
    root = folder.path.resolve()
    found = contents(folder)
    note = DELETIONS / f"{uuid.uuid4().hex}.json"
    is_whole = not found.foreign and _is_beside_possible(root)
    remains = _unused(Folder(root).remains if is_whole else Folder(root).remains_within)
    begun = {"root": str(root), "remains": str(remains), "pieces": None if is_whole else found.pieces}
    write_text(note, json.dumps(begun))
    if is_whole:
        root.rename(remains)
    else:
        remains.mkdir()
        Folder(root).state.rename(remains / Folder(root).state.name)
    _drop_links(folder, root)
    _finish(begun)
    note.unlink()


def _finish(begun: dict[str, Any]) -> None:
    """All that comes after a run has gone out of sight; it may be done again where it was cut off."""
    root, remains = Path(begun["root"]), Path(begun["remains"])
    for piece in begun["pieces"] or ():
        if (root / piece).exists() and not (root / piece).is_symlink():
            target = remains / piece
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / piece).rename(target)
            _remove_empty((root / piece).parent, root)
    if remains.exists():
        shutil.rmtree(remains)
    if begun["pieces"] is not None:
        Folder(root).lock.unlink(missing_ok=True)
    _remove_empty(root, SAVES.resolve() if root.is_relative_to(SAVES.resolve()) else root.parent)


def _carry_on() -> None:
    """Finish what was cut off; where another run has begun since, only what was taken out of sight goes."""
    for note in sorted(DELETIONS.glob("*.json")):
        begun = json.loads(note.read_text(encoding="utf-8"))
        root, remains = Folder(Path(begun["root"])), Path(begun["remains"])
        try:
            if not root.state.exists() and not is_alive(root):
                _finish(begun)
            elif remains.exists():
                shutil.rmtree(remains)
        except OSError:
            continue  # not to be removed now, a network disk perhaps; the note stays, and it is tried again
        note.unlink()


def _naming(folder: Folder) -> Iterator[tuple[Folder, set[str]]]:
    """Other runs whose job names a path in this one's folder, and the options in which they do."""
    root = folder.path.resolve()
    known: dict[str, bool] = {}  # most runs say the same of most options
    for each in all_folders():
        if each.path.resolve() == root:
            continue
        names = set()
        for name, text in _texts_of(each):
            if text not in known:
                known[text] = _is_within(text, root)
            if known[text]:
                names.add(name)
        if names:
            yield each, names


def _texts_of(folder: Folder) -> tuple[tuple[str, str], ...]:
    """Option and value of all texts in a run's job."""
    try:
        return _texts_at(folder, folder.job.stat().st_mtime_ns)
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return ()  # deleted meanwhile, or not written by us


@lru_cache(maxsize=10_000)
def _texts_at(folder: Folder, changed_ns: int) -> tuple[tuple[str, str], ...]:
    """Read once for each time the file was written: YAML takes milliseconds, and there may be a thousand."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    options = yaml.load(folder.job.read_text(encoding="utf-8"), Loader=loader)["options"]
    return tuple(
        (name, text.strip())
        for name, value in options.items()
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, str)
        for text in each.split(",")
        if text.strip()
    )


def _is_within(text: str, root: Path) -> bool:
    try:
        return Path(text).expanduser().resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False  # no path at all


def _drop_links(folder: Folder, root: Path) -> None:
    for link in {folder.path, link_to(root)}:
        if link.is_symlink():
            link.unlink()
            _remove_empty(link.parent.resolve(), SAVES.resolve())


def _remove_empty(path: Path, end: Path) -> None:
    """Remove a folder and those above it, up to ``end``, for as long as they are empty."""
    while path != end and path.is_relative_to(end):
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return  # there is something in it
        path = path.parent


def _is_beside_possible(root: Path) -> bool:
    """Whether a folder can be renamed where it is: it is no mounted disk, and we may write beside it."""
    return not root.is_mount() and os.access(root.parent, os.W_OK)


def _unused(path: Path) -> Path:
    """The path, or one like it that nothing uses."""
    found, count = path, 1
    while found.exists():
        count += 1
        found = path.with_name(f"{path.name}-{count}")
    return found


def _one_at_a_time() -> FileLock:
    DELETIONS.mkdir(parents=True, exist_ok=True)
    return FileLock(DELETIONS / "lock")


def _detail(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)
