"""A run watched in the terminal: what it is doing, a bar, the loss, and how it ended."""

from __future__ import annotations

import json
import shutil
import sys
import time

from engine.errors import UserError
from engine.options.base import Options
from engine.runs.curves import Curve, rows
from engine.runs.folder import Folder
from engine.runs.phases import phase_facts
from engine.runs.progress import Progress, watch
from engine.runs.queue import cancel, keep, place_of, submit
from engine.runs.stop import ask_to_stop, end_now
from engine.runs.times import clock
from engine.words import words
from terminal.cause import print_cause

EXIT_CODES = {"done": 0, "failed": 1, "lost": 1, "stopped": 130}
INTERVAL_S = 0.25
QUEUE_INTERVAL_S = 1.0
MOST_LINES = 1000
"""So many of the steps that are past are printed when a run is opened."""
SHOWN = {"loss": "loss", "eval_loss": "eval_loss", "learning_rate": "lr", "grad_norm": "grad_norm"}


def start_and_watch(job: Options, language: str) -> int:
    """Start a job and stay with it to its end; if its device is taken, it waits in the queue first.

    Ctrl-C takes it out of the queue, or asks it to save and stop; a second one ends it at once.
    """
    folder = submit(job, language)
    place = place_of(folder)
    if place is not None:
        print(words("cli.queue.waits", language, name=folder.name, place=place))
        print(words("cli.queue.ctrl_c", language))
    else:
        print(words("cli.started", language, folder=folder.path))
    if job.kind == "train" and place is None:
        print(words("cli.ctrl_c", language))
    return stay_with(folder, language, stop_on_interrupt=True)


def stay_with(folder: Folder, language: str, stop_on_interrupt: bool) -> int:
    """Print what happens in a run until it ends; returns its exit code.

    Args:
        stop_on_interrupt: Ctrl-C stops the run; else it only ends the watching.
    """
    view = _View(language)
    interrupted = 0
    while True:
        try:
            progress = watch(folder)
            view.show(progress)
            if progress.status in EXIT_CODES:
                view.end(folder, progress)
                return EXIT_CODES[progress.status]
            if progress.status == "queued":
                view.wait(place_of(folder))
                keep()  # whoever minds the queue may have been killed
            time.sleep(INTERVAL_S if progress.status != "queued" else QUEUE_INTERVAL_S)
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                return 0
            if _is_taken_out(folder):
                view.line(words("cli.queue.cancelled", language, name=folder.name))
                return EXIT_CODES["stopped"]
            interrupted += 1
            if interrupted == 1:
                ask_to_stop(folder)
                view.line(words("cli.stopping", language))
            else:
                end_now(folder)


def _is_taken_out(folder: Folder) -> bool:
    """Take a run that waits out of the queue; False: it does not wait."""
    try:
        cancel(folder)
    except UserError as error:
        if error.key != "queue.not_waiting":
            raise
        return False
    return True


class _View:
    """What has been printed so far; a bar that rewrites itself where the terminal can, plain lines where not."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._rewrites = sys.stdout.isatty()
        self._warnings = 0
        self._told: dict[str, int] = {}
        self._last = ""
        self._bar_width = 0

    def show(self, progress: Progress) -> None:
        for key, facts in progress.warnings[self._warnings :]:
            self.line(words(f"errors.{key}", self._language, **facts))
        self._warnings = len(progress.warnings)
        curves = {name: progress.curves[name] for name in SHOWN if name in progress.curves}
        for step, values in rows(curves, {name: self._begin(name, curve) for name, curve in curves.items()}):
            self.line(self._point(step, values, progress))
        if progress.phase and progress.status not in EXIT_CODES:
            text = "  ".join(phase_facts(progress.phase, self._language))
            self._bar(text, is_new=progress.phase.name != self._last)
            self._last = progress.phase.name
        elif progress.total_steps:
            self._bar(self._steps(progress), is_new=False)

    def wait(self, place: int | None) -> None:
        if place is not None:
            text = words("cli.queue.place", self._language, place=place)
            self._bar(text, is_new=text != self._last)
            self._last = text

    def line(self, text: str) -> None:
        self._clear()
        print(text, flush=True)

    def end(self, folder: Folder, progress: Progress) -> None:
        self._clear()
        if progress.status in ("failed", "lost"):
            print_cause(folder, self._language)
        else:
            print(words(f"cli.ended.{progress.status}", self._language, folder=folder.path))
            if progress.status == "done" and progress.result and progress.kind != "preflight":
                print(json.dumps(progress.result, indent=2, ensure_ascii=False))

    def _begin(self, name: str, curve: Curve) -> int:
        """The first point of a curve that has not been told; of a long run that is opened, not all of it."""
        count = len(curve)
        begin = min(self._told.get(name, max(0, count - MOST_LINES)), count)
        self._told[name] = count
        return begin

    def _point(self, step: float, values: dict[str, float], progress: Progress) -> str:
        shown = [f"{short} {values[name]:.4g}" for name, short in SHOWN.items() if name in values]
        return f"{step:>6.0f}/{progress.total_steps}  " + "  ".join(shown)

    def _steps(self, progress: Progress) -> str:
        share = progress.step / progress.total_steps
        width = 24
        bar = "█" * round(width * share) + "░" * (width - round(width * share))
        text = f"{bar} {progress.step}/{progress.total_steps} {100 * share:.0f}%"
        if progress.loss is not None:
            text += f"  loss {progress.loss:.4f}"
        if progress.tokens_per_s:
            text += f"  {progress.tokens_per_s:.0f} tokens/s"
        if progress.remaining_s is not None:
            text += "  " + words("cli.remaining", self._language, time=clock(progress.remaining_s))
        return text

    def _bar(self, text: str, is_new: bool) -> None:
        if self._rewrites:
            text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(self._bar_width), end="", flush=True)
            self._bar_width = len(text)
        elif is_new:
            print(text, flush=True)

    def _clear(self) -> None:
        if self._rewrites and self._bar_width:
            print("\r" + " " * self._bar_width + "\r", end="")
            self._bar_width = 0
