"""Checkpoints as folders: complete or not, put in place, counted. It knows nothing of what is in them.

A checkpoint is written under another name; its list of files comes last, and once everything is on the disk it gets its
own name. So wherever a process is killed, each checkpoint is either complete or can be told to be not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePath

MANIFEST = "manifest.json"
"""In a checkpoint: name → [bytes, crc32] of each of its files; written last.

Earlier versions have null in place of the checksum of files above 64 MB; these are known by their size alone.
"""
STATE = "trainer_state.json"
BLOCK_BYTES = 1 << 22


def seal(folder: Path) -> None:
    """Have all files of a folder on the disk, and list them: from now on it is complete.

    They are summed while they are being written through: of 1 GB that takes 0.05 s more, and afterwards 0.45 s.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    with ThreadPoolExecutor(1) as beside:
        sums = beside.map(_checksum, files)
        for path in files:
            write_through(path)
        facts = [[path.stat().st_size, checksum] for path, checksum in zip(files, sums, strict=True)]
    found = dict(zip((str(path.relative_to(folder)) for path in files), facts, strict=True))
    manifest = folder / MANIFEST
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
        listed = read_list(checkpoint)
    except FileNotFoundError:
        return None if _is_json(checkpoint / STATE) else STATE
    except (OSError, ValueError):
        return MANIFEST
    for name, (size, checksum) in listed.items():
        path = os.path.join(checkpoint, name)  # a Path for each of a thousand files takes longer than looking at them
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return name
            if reads_files and checksum is not None and _checksum(Path(path)) != checksum:
                return name
        except OSError:  # it is gone, or the disk cannot read it
            return name
    return None


def read_list(checkpoint: Path) -> Mapping[str, tuple[int, int | None]]:
    """Name → bytes and checksum of each file of a checkpoint, as they were when it was written.

    Raises:
        FileNotFoundError: it has no list; another program has written it.
        ValueError: the list is damaged, or is none.
    """
    found = os.stat(checkpoint / MANIFEST)
    return _list_at(checkpoint / MANIFEST, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1024)
def _list_at(manifest: Path, inode: int, changed_ns: int, size: int) -> Mapping[str, tuple[int, int | None]]:
    """Read once for as long as it stays as it is: whoever shows checkpoints looks at them every other second."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{MANIFEST} is nested too deeply") from error
    if not isinstance(content, dict) or STATE not in content:
        raise ValueError(f"{MANIFEST} is no list of a checkpoint's files")
    return {name: _entry(name, each) for name, each in content.items()}


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


def _entry(name: str, entry: object) -> tuple[int, int | None]:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} lies outside of the checkpoint")
    match entry:
        case [int() as size, (int() | None) as checksum]:
            return size, checksum
    raise ValueError(f"{name} has no size and checksum")


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            total = zlib.crc32(block, total)
    return total


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True
