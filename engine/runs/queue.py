"""The queue: trainings that wait for a device, first in, first out. It is files, and survives as the runs do.

A waiting run is a run's folder like any other: its job, a state that says "queued", and ``queued.json``, which says
where it stands in line. Whoever changes the line holds one lock meanwhile. Nothing here waits: what starts the next run
once a device is free is the keeper (``engine.runs.keeper``).
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock

from engine.catalog.devices import Device
from engine.errors import Refused, UserError
from engine.options.base import Options
from engine.runs.double import seen_before, take_note
from engine.runs.folder import QUEUE, Folder, folders_in_line
from engine.runs.launch import place_in
from engine.runs.read import is_alive, read_job, read_language, read_state
from engine.runs.record import about, update_state, write_job, write_text
from engine.runs.seats import Wish, last_on, occupant, sit, wished
from engine.runs.start import PROJECT, checked_devices, folder_for, leave_link, refuse_finished, start, take_lock

SETTINGS = QUEUE / "settings.json"
KEEPER_LOCK = QUEUE / "keeper.lock"
KEEPER_LOG = QUEUE / "keeper.log"


@dataclass(frozen=True)
class Waiting:
    """A run that waits.

    Args:
        order: the smallest is first; a run that was moved may lie between two whole numbers.
        submitted_at: seconds since 1970.
    """

    folder: Folder
    order: float
    submitted_at: float
    wish: Wish


@dataclass(frozen=True)
class Settings:
    """What holds for the whole queue.

    Args:
        is_paused: nothing that waits is started.
        keeps_going: a run that failed does not hold back the next one on its device.
        forgiven: failed runs after which it was said to go on all the same, each with the time at which it began.
    """

    is_paused: bool = False
    keeps_going: bool = True
    forgiven: tuple[tuple[str, float | None], ...] = ()


def submit(job: Options, language: str = "en", token: str | None = None) -> Folder:
    """Start a job, or, if it is a training whose device is taken or awaited by others, put it in the queue.

    Args:
        token: names the page from which it comes; the same job that comes twice within a moment from the same page is
            one double click, and is started once. None: every call counts.

    Returns:
        The run's folder; :func:`place_of` tells whether it waits.

    Raises:
        Refused, UserError: as :func:`engine.runs.start.start`; the folder's run waits already.
    """
    return submit_all([job], language, token)[0]


def submit_all(jobs: Sequence[Options], language: str = "en", token: str | None = None) -> list[Folder]:
    """Submit several jobs in this order; none of them, if one names what is not there."""
    found = [checked_devices(job) for job in jobs]
    with _changing():
        before = seen_before(jobs, token)
        if before:
            return before
        folders = [_submit(job, language, each) for job, each in zip(jobs, found, strict=True)]
        take_note(jobs, token, folders)
        _keep()
    return folders


def waiting() -> list[Waiting]:
    """All runs that wait, the next one first."""
    found = [each for folder in folders_in_line() if (each := _read(folder))]
    return sorted(found, key=lambda each: (each.order, each.submitted_at, each.folder.name))


def place_of(folder: Folder) -> int | None:
    """Which number a run has in the line, counted from 1; None: it does not wait."""
    if not folder.queued.is_file():
        return None
    names = [each.folder.path.resolve() for each in waiting()]
    return names.index(folder.path.resolve()) + 1 if folder.path.resolve() in names else None


def move(folder: Folder, place: int) -> None:
    """Give a waiting run another place, counted from 1; beyond the ends means the ends.

    Raises:
        UserError: it does not wait (any more).
    """
    with _changing():
        mine = _waiting_or_refuse(folder)
        others = [each for each in waiting() if each.folder.path.resolve() != folder.path.resolve()]
        others = _with_room(others)
        index = min(max(place, 1), len(others) + 1) - 1
        low = others[index - 1].order if index else None
        high = others[index].order if index < len(others) else None
        if low is None and high is None:
            return
        order = high - 1 if low is None else low + 1 if high is None else (low + high) / 2
        _write(replace(mine, order=order))


def cancel(folder: Folder) -> bool:
    """Take a waiting run out of the queue. One that had been begun before is again what it was; another is stopped.

    Returns:
        Whether it had been begun before.

    Raises:
        UserError: it does not wait (any more).
    """
    with _changing():
        _waiting_or_refuse(folder)
        before = _content(folder).get("before")
        if before:
            write_text(folder.job, before["job"])
            write_text(folder.state, json.dumps(before["state"], ensure_ascii=False, indent=1))
        else:
            update_state(folder, status="stopped", finished_at=time.time())
        folder.queued.unlink(missing_ok=True)
        return before is not None


def had_begun(folder: Folder) -> bool:
    """Whether a waiting run was begun before, so that it is that run again once it is taken out of the queue."""
    try:
        return _content(folder).get("before") is not None
    except (FileNotFoundError, ValueError):
        return False  # it has begun meanwhile


def pause() -> None:
    """Start nothing more of what waits; what runs goes on."""
    _change_settings(is_paused=True)


def resume() -> None:
    """Go on after a pause, and after a failed run that held the next one back."""
    with _changing():
        failed = [each for each in map(_failed_on, _seats()) if each]
        forgiven = tuple((str(each.path), read_state(each).started_at) for each in failed)
        _write_settings(replace(read_settings(), is_paused=False, forgiven=forgiven))
        _keep()


def keep_going(is_wanted: bool) -> None:
    """Whether the next run on a device is started when the one before it has failed."""
    _change_settings(keeps_going=is_wanted)


def read_settings() -> Settings:
    try:
        content = json.loads(SETTINGS.read_text(encoding="utf-8"))
        return Settings(**{**content, "forgiven": tuple(map(tuple, content["forgiven"]))})
    except FileNotFoundError:
        return Settings()


def held_back_by(each: Waiting, settings: Settings | None = None) -> Folder | None:
    """The failed run because of which a waiting one is not started; None: it is not held back."""
    settings = settings or read_settings()
    failed = [] if settings.keeps_going else [folder for folder in map(_failed_on, each.wish.seats) if folder]
    held = [folder for folder in failed if (str(folder.path), read_state(folder).started_at) not in settings.forgiven]
    return next(iter(held), None)


def advance() -> list[Folder]:
    """Start what may be started now; returns these runs. Nobody overtakes one that waits for the same device."""
    started = []
    with _changing():
        settings = read_settings()
        awaited: set[str] = set()
        for each in [] if settings.is_paused else waiting():
            free = [seat for seat in each.wish.seats if seat not in awaited and occupant(seat) is None]
            if len(free) >= each.wish.count and not held_back_by(each, settings) and _start(each):
                started.append(each.folder)
            else:
                awaited |= set(each.wish.seats)
    return started


def keep() -> None:
    """See to it that somebody minds the queue, if anything waits in it."""
    if QUEUE.is_dir() and waiting():
        with _changing():
            _keep()


def leave_if_empty() -> bool:
    """For the keeper, whose standard input is the lock: let go of it, unless something waits."""
    with _changing():
        if waiting():
            return False
        fcntl.flock(sys.stdin, fcntl.LOCK_UN)
        return True


def _changing() -> FileLock:
    QUEUE.mkdir(parents=True, exist_ok=True)
    return FileLock(QUEUE / "queue.lock")


def _submit(job: Options, language: str, found: Sequence[Device]) -> Folder:
    wish = None if place_in(os.environ) else wished(job, found)
    if wish is None:
        return start(job, language)
    folder = folder_for(job)
    if folder.state.is_file() and read_state(folder).is_waiting:
        raise UserError("queue.waits_already", name=folder.name)
    line = waiting()
    if not any(set(each.wish.seats) & set(wish.seats) for each in line):
        try:
            return start(job, language, folder=folder)
        except UserError as error:
            if error.key != "device_busy":
                raise
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("ab+") as lock:
        take_lock(lock, folder)
        refuse_finished(job, folder)
        now = time.time()
        order = line[-1].order + 1 if line else 1.0
        _write(Waiting(folder, order, now, wish), before=_what_was(folder))
        write_job(folder, job, language)
        update_state(
            folder, kind=job.kind, status="queued", pid=None, started_at=None, finished_at=None, error=None,
            result=None, owner_pid=None, submitted_at=now, seats=(), about=about(job),
        )  # fmt: skip
        leave_link(folder)
    return folder


def _start(each: Waiting) -> bool:
    """Start a waiting run; one that cannot be started has failed. Returns whether it waits no more."""
    folder = each.folder
    try:
        start(read_job(folder), read_language(folder), folder=folder, patience_s=0)
    except UserError as error:
        if error.key == "device_busy":
            return False
        facts = {"detail": error.text()} if isinstance(error, Refused) else error.facts
        key = "refused_because" if isinstance(error, Refused) else error.key
        _fail(each, key, facts)
    except Exception as error:  # the next ones must not wait for a run that can never be started
        _fail(each, "unexpected", {"detail": f"{type(error).__name__}: {error}"})
    return True


def _fail(each: Waiting, key: str, facts: dict[str, Any]) -> None:
    """Record the cause; the run was the last one on its seats, as if it had begun."""
    now, seats = time.time(), each.wish.seats[: each.wish.count]
    error = {"key": key, "facts": {name: str(value) for name, value in facts.items()}}
    update_state(each.folder, status="failed", started_at=now, finished_at=now, error=error, seats=seats)
    sit(each.folder, seats)
    each.folder.queued.unlink(missing_ok=True)


def _failed_on(seat: str) -> Folder | None:
    """The run that was last on a seat, if it has failed or its worker died."""
    folder = last_on(seat)
    return folder if folder and read_state(folder).status in ("failed", "lost") and not is_alive(folder) else None


def _seats() -> set[str]:
    return {seat for each in waiting() for seat in each.wish.seats}


def _what_was(folder: Folder) -> dict[str, Any] | None:
    """State and job of an earlier run in a folder, so that it can be again what it was."""
    try:
        state = json.loads(folder.state.read_text(encoding="utf-8"))
        return {"state": state, "job": folder.job.read_text(encoding="utf-8")}
    except FileNotFoundError:
        return None


def _waiting_or_refuse(folder: Folder) -> Waiting:
    mine = _read(folder)
    if mine is None:
        raise UserError("queue.not_waiting", name=folder.name)
    return mine


def _with_room(line: list[Waiting]) -> list[Waiting]:
    """The line, numbered anew where two of its orders leave no number between them."""
    orders = [each.order for each in line]
    if all(low < (low + high) / 2 < high for low, high in itertools.pairwise(orders)):
        return line
    numbered = [replace(each, order=float(number)) for number, each in enumerate(line, start=1)]
    for each in numbered:
        _write(each)
    return numbered


def _content(folder: Folder) -> dict[str, Any]:
    return json.loads(folder.queued.read_text(encoding="utf-8"))


def _read(folder: Folder) -> Waiting | None:
    """What ``queued.json`` says, if the run waits indeed."""
    try:
        if not read_state(folder).is_waiting:
            return None
        content = _content(folder)
        wish = Wish(tuple(content["seats"]), content["count"])
        return Waiting(folder, content["order"], content["submitted_at"], wish)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # started, or deleted, just now; or edited by hand


def _write(each: Waiting, **further: Any) -> None:
    """Replace what ``queued.json`` says of a run's place; the rest of it stays, unless said anew."""
    kept = further or ({"before": _content(each.folder)["before"]} if each.folder.queued.is_file() else {})
    place = {"order": each.order, "submitted_at": each.submitted_at, "seats": each.wish.seats, "count": each.wish.count}
    write_text(each.folder.queued, json.dumps({**place, **kept}, ensure_ascii=False, indent=1))


def _change_settings(**changes: Any) -> None:
    with _changing():
        _write_settings(replace(read_settings(), **changes))


def _write_settings(settings: Settings) -> None:
    write_text(SETTINGS, json.dumps(settings.__dict__, indent=1))


def _keep() -> None:
    """Start a keeper, unless there is one or nothing waits. It inherits the lock, with no gap between."""
    if not waiting():
        return
    with KEEPER_LOCK.open("ab") as lock, KEEPER_LOG.open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        subprocess.Popen(
            [sys.executable, "-m", "engine.runs.keeper"], stdin=lock, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
