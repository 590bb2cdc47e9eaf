"""What a run's events add up to: how far it is, how long it will take, and its curves.

Reads new bytes only, and serves every viewer of a run from one reading.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.runs.curves import Curve
from engine.runs.facts import Facts
from engine.runs.folder import Folder
from engine.runs.read import State, read_events, read_state


class Phase(NamedTuple):
    """What is being done before, between and after the steps; ``name`` is a key below ``phases`` in the locales."""

    name: str
    current: int | None = None
    total: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Progress:
    """A run at one moment. Times in seconds.

    ``curves`` are those that the run has of "loss", "eval_loss", "learning_rate", "grad_norm", "throughput" (tokens/s),
    "memory_bytes", and of what the stage measures ("rewards/margins" and the like). They grow with the run,
    and so does what is known in ``facts``.
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


_CURVES = {
    "loss": "loss", "eval_loss": "eval_loss", "lr": "learning_rate", "grad_norm": "grad_norm",
    "throughput": "throughput", "memory_bytes": "memory_bytes",
}  # fmt: skip
"""What a log calls a value → the name of its curve."""
_NUMBER = (float, int)
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
        self._start_over()

    def update(self) -> Progress:
        """Read what is new. Raises: FileNotFoundError, if the run has been deleted."""
        with self._lock:
            state = read_state(self._folder)  # before the events: what is told of the end includes the last of them
            if self._folder.events.is_file() and self._folder.events.stat().st_size < self._offset:
                self._start_over()  # the file was written anew
            begin = None
            while self._offset != begin:
                begin = self._offset
                events, self._offset = read_events(self._folder, begin)
                for event in events:
                    self._take(event)
            return self._progress(state)

    def _start_over(self) -> None:
        self._offset = 0
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

    def _take(self, event: dict[str, Any]) -> None:
        if "current_steps" in event:
            self._take_step(event)
            return
        self._facts.take(event)
        if "phase" in event:
            named = {name: event[name] for name in ("current", "total", "unit") if name in event}
            self._phase = Phase(event["phase"], **named)
        elif "warning" in event:
            warning = (event["warning"], event.get("facts") or {})
            if warning not in self._warnings:
                self._warnings.append(warning)
        elif "resumed_at" in event:
            for curve in self._curves.values():
                curve.forget_after(event["resumed_at"])

    def _take_step(self, event: dict[str, Any]) -> None:
        """A million of these are read at once when somebody opens a long run: nothing is made here that is not kept."""
        step, curve_of = event["current_steps"], self._curve_of
        for name, value in event.items():
            if name not in curve_of:
                curve_of[name] = self._new_curve(name)
            curve = curve_of[name]
            if curve is not None and isinstance(value, _NUMBER):
                curve.append(step, value)
        self._place.update(event)
        self._phase = None

    def _new_curve(self, name: str) -> Curve | None:
        if name not in _CURVES and not is_measured(name):
            return None
        return self._curves.setdefault(_CURVES.get(name, name), Curve())


_watches: dict[str, Watch] = {}
_watches_lock = threading.Lock()


def watch(folder: Folder) -> Progress:
    """How far a run is. All who ask share one incremental reading.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    key = str(folder.path.absolute())
    with _watches_lock:
        if key not in _watches:
            _watches[key] = Watch(folder)
        reader = _watches[key]
    return reader.update()


def seconds(clock: str | None) -> float | None:
    """``"1:02:03"`` or ``"2 days, 1:02:03"`` → seconds."""
    if not clock:
        return None
    days, _, rest = clock.rpartition(" day")
    hours, minutes, secs = rest.rsplit(" ", 1)[-1].split(":")
    return (int(days) if days else 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(secs)


def clock(time_s: float) -> str:
    """Seconds as ``1:02:03``, the same in every language; what ``seconds`` reads."""
    whole = max(0, int(time_s))
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
