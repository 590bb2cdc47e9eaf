"""A result under a temporary name: it gets its own name when it is complete and proven, or it is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import UserError
from engine.runs.checkpoints import write_through

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def unfinished(target: Path, is_folder: bool = False) -> Iterator[Path]:
    """A file or folder to write into, renamed to ``target`` at the end; after an error it is removed.

    It is locked as long as this process lives: what an earlier job left when it was killed is written over, what
    another one is writing just now is not.

    Raises:
        UserError: another job is writing to the same target; nothing can be written there; the disk is full.
    """
    target = target.resolve()
    path = name_before(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if is_folder else path.touch()
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _told(error, target) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("target_busy", path=target) from error
        try:
            if is_folder:
                _empty(path)
            yield path
            for each in [path] if path.is_file() else [*path.rglob("*"), path]:
                write_through(each)
            path.replace(target)
            write_through(target.parent)
        except BaseException as error:
            _remove(path)
            if isinstance(error, OSError) and error.errno in FULL:
                raise _told(error, target) from error
            raise
    finally:
        os.close(lock)


def name_before(target: Path) -> Path:
    """Where a result lies until it is complete: hidden, and called as nobody calls what is his own."""
    return target.with_name(f".{target.name}.lathe.tmp")


def _told(error: OSError, target: Path) -> UserError:
    return UserError("disk_full", detail=error) if error.errno in FULL else UserError(
        "target_not_writable", path=target, detail=error.strerror or error
    )  # fmt: skip


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
