"""What a run's events add up to: how far it is, how long it will take, and its curves.

Reads new bytes only, and serves every viewer of a run from one reading. A long log takes the page many looks, so that
it answers meanwhile; who needs all of it waits.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.runs.curves import Curve
from engine.runs.facts import Facts
from engine.runs.folder import Folder
from engine.runs.phases import Phase, told
from engine.runs.read import State, last_events, read_events, read_state
from engine.runs.times import seconds

SLICE_S, REST_S = 0.04, 0.06
"""A log is read for the page so long at a time, and then not for so long: Python's threads share one interpreter, and
what reads keeps the others from answering."""
HEAD_BYTES = 256
"""By its beginning a log is known again; and so little at its end is read in any case."""


@dataclass(frozen=True)
class Progress:
    """A run at one moment. Times in seconds.

    ``curves`` are those that the run has of "loss", "eval_loss", "learning_rate", "grad_norm", "throughput" (tokens/s),
    "memory_bytes", and of what the stage measures ("rewards/margins" and the like). They grow with the run,
    and so does what is known in ``facts``. ``share_read`` is below 1 while the log is not read to its end: curves and
    warnings are then those of its beginning, all else is of its end.
    """

    status: str
    kind: str
    phase: Phase | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    elapsed_s: float | None = None
    remaining_s: float | None = None
    warnings: tuple[tuple[str, dict[str, Any]], ...] = ()
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    started_at: float | None = None
    finished_at: float | None = None
    facts: Facts = field(default_factory=Facts)
    share_read: float = 1.0

    @property
    def is_read(self) -> bool:
        return self.share_read >= 1


_CURVES = {
    "loss": "loss", "eval_loss": "eval_loss", "lr": "learning_rate", "grad_norm": "grad_norm",
    "throughput": "throughput", "memory_bytes": "memory_bytes",
}  # fmt: skip
"""What a log calls a value → the name of its curve."""
_NUMBER = (float, int)
_NUMBERS = frozenset(_NUMBER)
_OWN = (
    "kl", "reward", "reward_std", "entropy", "accuracy", "completions/mean_length", "completions/clipped_ratio",
)  # fmt: skip


def is_measured(name: str) -> bool:
    """Whether a logged value is one that a stage adds of its own: rewards, log-probabilities, distances."""
    name = name.removeprefix("eval_")
    return name.startswith(("rewards/", "logps/")) or name in _OWN


class Watch:
    """The events of one run, read as far as they are written."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._latest: Progress | None = None
        self._start_over()

    def update(self) -> Progress:
        """Read all that is new. Raises: FileNotFoundError, if the run has been deleted."""
        with self._lock:
            return self._read(None)

    def glance(self, deadline: float) -> Progress:
        """Read on until then, one block at least; while another thread reads, what it knew before.

        Raises:
            FileNotFoundError: the run has been deleted.
        """
        if self._lock.acquire(blocking=False):
            try:
                return self._read(deadline)
            finally:
                self._lock.release()
        state, latest = read_state(self._folder), self._latest
        if latest is None:
            return Progress(state.status, state.kind, share_read=0.0)
        return replace(latest, status=state.status, error=state.error, result=state.result)

    def _read(self, deadline: float | None) -> Progress:
        state = read_state(self._folder)  # before the events: what is told of the end includes the last of them
        if self._is_written_anew():
            self._start_over()
        begin, is_cut = None, False
        while self._offset != begin and not is_cut:
            begin = self._offset
            events, self._offset = read_events(self._folder, begin)
            for layout, alike in itertools.groupby(events, tuple):
                self._take(layout, list(alike))
            is_late = deadline is not None and time.monotonic() >= deadline and self._offset != begin
            is_cut = is_late and self._folder.events.stat().st_size - self._offset > HEAD_BYTES
        if not self._head and self._offset:
            with self._folder.events.open("rb") as file:
                self._head = file.read(min(HEAD_BYTES, self._offset))
        progress = self._progress(state)
        self._latest = self._ahead(progress) if is_cut else progress  # in one go: others take it as it is
        return self._latest

    def _is_written_anew(self) -> bool:
        """Whether this is no longer the file of which the beginning has been read."""
        if not self._offset:
            return False
        try:
            with self._folder.events.open("rb") as file:
                return file.read(len(self._head)) != self._head or file.seek(0, 2) < self._offset
        except FileNotFoundError:
            return False  # its curves stay, as long as there is no other

    def _ahead(self, progress: Progress) -> Progress:
        """Of a log that is not read to its end, the place and the figures that its end says."""
        size = self._folder.events.stat().st_size
        end = Watch(self._folder)
        for event in last_events(self._folder):
            end._take(tuple(event), [event])
        last = end._progress(read_state(self._folder))
        return replace(last, curves=progress.curves, warnings=progress.warnings, share_read=self._offset / size)

    def _start_over(self) -> None:
        self._offset, self._head = 0, b""
        self._curves: dict[str, Curve] = {}
        self._curve_of: dict[str, Curve | None] = {}  # by what the log calls it; None: no curve
        self._place: dict[str, Any] = {}
        self._phase: Phase | None = None
        self._warnings: list[tuple[str, dict[str, Any]]] = []
        self._facts = Facts()

    def _progress(self, state: State) -> Progress:
        place, latest = self._place, {name: curve.last[1] for name, curve in self._curves.items() if curve.last}
        return Progress(
            status=state.status, kind=state.kind, error=state.error, result=state.result, started_at=state.started_at,
            finished_at=state.finished_at, phase=None if state.has_ended else self._phase,
            warnings=tuple(self._warnings), curves=dict(self._curves), step=place.get("current_steps") or 0,
            total_steps=place.get("total_steps") or 0, epoch=place.get("epoch"), loss=latest.get("loss"),
            eval_loss=latest.get("eval_loss"), learning_rate=latest.get("learning_rate"),
            grad_norm=latest.get("grad_norm"), tokens_per_s=place.get("throughput"),
            elapsed_s=seconds(place.get("elapsed_time")), remaining_s=seconds(place.get("remaining_time")),
            facts=self._facts,
        )  # fmt: skip

    def _take(self, layout: tuple[str, ...], events: Sequence[dict[str, Any]]) -> None:
        """Add events with the same names in them."""
        if "current_steps" in layout:
            self._take_steps(layout, events)
            return
        for event in events:
            self._facts.take(event)
            if "phase" in event:
                self._phase = told(event, self._phase)
            elif "warning" in event:
                warning = (event["warning"], event.get("facts") or {})
                if warning not in self._warnings:
                    self._warnings.append(warning)
            elif "resumed_at" in event:
                for curve in self._curves.values():
                    curve.forget_after(event["resumed_at"])

    def _take_steps(self, layout: tuple[str, ...], events: Sequence[dict[str, Any]]) -> None:
        """A million of these are read when somebody opens a long run: a curve takes those of a block in one go."""
        steps = [event["current_steps"] for event in events]
        for name in layout:
            if name not in self._curve_of:
                self._curve_of[name] = self._new_curve(name)
            curve = self._curve_of[name]
            if curve is None:
                continue
            values = [event[name] for event in events]
            if _NUMBERS.issuperset(map(type, values)):
                curve.extend(steps, values)
            else:  # null, or a text
                for step, value in zip(steps, values, strict=True):
                    if isinstance(value, _NUMBER):
                        curve.append(step, value)
        self._place.update(events[-1])
        self._phase = None

    def _new_curve(self, name: str) -> Curve | None:
        if name not in _CURVES and not is_measured(name):
            return None
        return self._curves.setdefault(_CURVES.get(name, name), Curve())


_watches: dict[str, Watch] = {}
_watches_lock = threading.Lock()
_unread: list[Watch] = []
"""What a thread reads on, slice by slice, since somebody glanced at it; the thread lives while there is any."""


def watch(folder: Folder) -> Progress:
    """How far a run is, its log read to the end, however long that takes. All who ask share one incremental reading.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    return _watch_of(folder).update()


def glance(folder: Folder) -> Progress:
    """``watch`` for whoever asks again soon, and must not wait: of a long log that is new here a part is read at once,
    the rest meanwhile.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    reader = _watch_of(folder)
    progress = reader.glance(time.monotonic() + (0 if _unread else SLICE_S))
    if not progress.is_read:
        with _watches_lock:
            if reader not in _unread:
                _unread.append(reader)
                if len(_unread) == 1:
                    threading.Thread(target=_read_on, daemon=True).start()
    return progress


def _read_on() -> None:
    while True:
        time.sleep(REST_S)
        try:
            is_read = _unread[0].glance(time.monotonic() + SLICE_S).is_read
        except (OSError, KeyError, ValueError):
            is_read = True  # deleted meanwhile: who looks at it next is told
        with _watches_lock:
            reader = _unread.pop(0)  # all in turn
            if not is_read:
                _unread.append(reader)
            if not _unread:
                return


def _watch_of(folder: Folder) -> Watch:
    key = str(folder.path.absolute())
    with _watches_lock:
        if key not in _watches:
            _watches[key] = Watch(folder)
        return _watches[key]
