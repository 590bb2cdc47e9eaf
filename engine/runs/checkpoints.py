"""Checkpoints as folders: complete or not, put in place, counted. It knows nothing of what is in them.

A checkpoint is written under another name; its list of files comes last, and once everything is on the disk it gets its
own name. So wherever a process is killed, each checkpoint is either complete or can be told to be not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path

MANIFEST = "manifest.json"
"""In a checkpoint: name → [bytes, crc32 or null] of each of its files; written last."""
STATE = "trainer_state.json"
SUMMED_BYTES = 64 * 2**20
"""Larger files are known by their size alone: reading them all again would cost minutes with each checkpoint."""


def seal(folder: Path) -> None:
    """Have all files of a folder on the disk, and list them: from now on it is complete."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    found = {str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)] for path in files}
    manifest = folder / MANIFEST
    for path in files:
        write_through(path)
    manifest.write_text(json.dumps(found, indent=1), encoding="utf-8")
    write_through(manifest)
    for path in {path.parent for path in files} | {folder}:
        write_through(path)


def put_in_place(made: Path, target: Path) -> None:
    """Give a sealed checkpoint its name. What stood there goes; killed in between, ``settle`` ends what was begun."""
    remove(target)
    made.rename(target)
    write_through(target.parent)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; by its state first, so that what is left is not taken for one when this is cut short."""
    (checkpoint / STATE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def settle(folder: Path, unfinished: Path) -> None:
    """Tidy up after a run that was killed: a checkpoint that lacks but its name gets it, all else unfinished goes."""
    for made in numbered(unfinished):
        if (made / MANIFEST).is_file() and not damage(made) and not is_complete(folder / made.name):
            put_in_place(made, folder / made.name)
    shutil.rmtree(unfinished, ignore_errors=True)


def numbered(folder: Path) -> list[Path]:
    """Folders ``checkpoint-N``, complete or not, the earliest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def is_complete(checkpoint: Path) -> bool:
    """Whether all its files are there and have their sizes; nothing is read but the list.

    One without a list, written by another program, counts when it holds the file that is written last.
    """
    return not damage(checkpoint, reads_files=False)


def damage(checkpoint: Path, reads_files: bool = True) -> str | None:
    """The first file that is missing, cut off or changed; None: the checkpoint is as it was written."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None if _is_json(checkpoint / STATE) else STATE
    except (OSError, ValueError):
        return MANIFEST
    for name, (size, checksum) in {STATE: (None, None), **listed}.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return name
        if reads_files and checksum is not None and _checksum(path) != checksum:
            return name
    return None


def remove_older(folder: Path, step: int, keep: int | None, best_step: int | None) -> None:
    """After the checkpoint of ``step`` was put in place: the latest ``keep`` stay (None: all), and the best one.

    What is beyond this step was left by an earlier attempt that went on from somewhere else, or is damaged.
    """
    found = numbered(folder)
    latest = [path for path in found if int(path.name.rsplit("-", 1)[1]) <= step and is_complete(path)]
    kept = set(latest[-keep:] if keep else latest) | {folder / f"checkpoint-{best_step}"}
    for path in found:
        if path not in kept:
            remove(path)


def write_through(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk: after a power cut a name must not stand for nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_NAME = re.compile(r"checkpoint-(\d+)")


def _checksum(path: Path) -> int | None:
    return zlib.crc32(path.read_bytes()) if path.stat().st_size <= SUMMED_BYTES else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
