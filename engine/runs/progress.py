"""What a run's events add up to: how far it is, how long it will take, and the points of its curves.

Reads new bytes only, and serves every viewer of a run from one reading.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from engine.runs.folder import Folder
from engine.runs.read import read_events, read_state


class Phase(NamedTuple):
    """What is being done before, between and after the steps; ``name`` is a key below ``phases`` in the locales."""

    name: str
    current: int | None = None
    total: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Progress:
    """A run at one moment. Times in seconds; ``points`` hold "step" and any of "loss", "learning_rate", "grad_norm",
    "eval_loss", and what the stage measures ("rewards/margins" and the like)."""

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
    points: tuple[dict[str, Any], ...] = ()
    started_at: float | None = None
    finished_at: float | None = None


_NAMES = {"loss": "loss", "eval_loss": "eval_loss", "lr": "learning_rate", "grad_norm": "grad_norm"}


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
            events, self._offset = read_events(self._folder, self._offset)
            for event in events:
                self._take(event)
            return replace(
                self._seen, status=state.status, kind=state.kind, error=state.error, result=state.result,
                points=tuple(self._points), warnings=tuple(self._warnings), started_at=state.started_at,
                finished_at=state.finished_at, phase=None if state.has_ended else self._seen.phase,
            )  # fmt: skip

    def _start_over(self) -> None:
        self._offset = 0
        self._points: list[dict[str, Any]] = []
        self._warnings: list[tuple[str, dict[str, Any]]] = []
        self._seen = Progress(status="", kind="")

    def _take(self, event: dict[str, Any]) -> None:
        if "phase" in event:
            named = {name: event[name] for name in ("current", "total", "unit") if name in event}
            self._seen = replace(self._seen, phase=Phase(event["phase"], **named))
        elif "warning" in event:
            warning = (event["warning"], event.get("facts") or {})
            if warning not in self._warnings:
                self._warnings.append(warning)
        elif "resumed_at" in event:
            self._points = [point for point in self._points if point["step"] <= event["resumed_at"]]
        elif "current_steps" in event:
            self._take_step(event)

    def _take_step(self, event: dict[str, Any]) -> None:
        values = {ours: event[theirs] for theirs, ours in _NAMES.items() if event.get(theirs) is not None}
        measured = {name: value for name, value in event.items() if is_measured(name) and value is not None}
        if values or measured:
            self._points.append({"step": event["current_steps"], **values, **measured})
        seen = {
            "step": event["current_steps"], "total_steps": event.get("total_steps", 0), "epoch": event.get("epoch"),
            "tokens_per_s": event.get("throughput"), "elapsed_s": seconds(event.get("elapsed_time")),
            "remaining_s": seconds(event.get("remaining_time")), **values,
        }  # fmt: skip
        kept = {name: value for name, value in seen.items() if value is not None}
        self._seen = replace(self._seen, phase=None, **kept)


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


def smoothed(values: list[float]) -> list[float]:
    """An exponential moving average that smooths more, the more values there are.

    Weight of the past: 1.8 · (sigmoid(0.05 · n) − 0.5) for n values, the rule this field's plots use.
    """
    weight = 1.8 * (1 / (1 + 2.718281828459045 ** (-0.05 * len(values))) - 0.5)
    result: list[float] = []
    for value in values:
        last = result[-1] if result else value
        result.append(last * weight + value * (1 - weight))
    return result


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
