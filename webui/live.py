"""What a run looks like while it lives and afterwards, as HTML made from its folder alone; all viewers see the same."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from engine.runs.folder import Folder, all_folders, find_folder
from engine.runs.listing import Listed, rows_of
from engine.runs.notes import read_notes
from engine.runs.phases import phase_facts
from engine.runs.progress import Progress, glance
from engine.runs.queue import Waiting, place_of, waiting
from engine.runs.read import UNREADABLE, list_runs, read_job, read_log
from engine.runs.times import clock
from engine.words import words
from webui.cause import cause_notice
from webui.language import escaped, marked, sentence

LOG_BYTES = 16384
LIST_AGE_S = 1.0

_listed: dict[tuple[str, ...], tuple[float, Any]] = {}
LINE = ("queued",)
"""Stands for the queue among the kinds of runs that are listed."""
NAMES = ("names",)
"""Stands for all runs by name."""
_listed_lock = threading.Lock()


def runs_of(*kinds: str) -> list:
    """``list_runs``, at most once a second for all viewers together."""
    return _seldom(kinds, lambda: list_runs(*kinds))


def listing(*kinds: str) -> list[Listed]:
    """The rows of the list of runs, at most once a second for all viewers together."""
    runs = runs_of(*kinds)
    return _seldom(("rows", *kinds), lambda: rows_of(runs))


def line() -> list[Waiting]:
    """The queue, at most once a second for all viewers together."""
    return _seldom(LINE, waiting)


def _seldom(key: tuple[str, ...], listing: Callable[[], Any]) -> Any:
    with _listed_lock:
        made_at, found = _listed.get(key, (0.0, []))
        if time.monotonic() - made_at > LIST_AGE_S:
            found = listing()
            _listed[key] = (time.monotonic(), found)
        return found


def forget_list() -> None:
    """After a start: the next look shall see the new run at once."""
    with _listed_lock:
        _listed.clear()


def chosen_run(name: str | None, *kinds: str) -> Folder | None:
    """The run of that name if there is one, else the one that is active, else the latest that does not wait."""
    if found := named_run(name):  # else it was deleted meanwhile, or mistyped in the address: show what there is
        return found
    runs = runs_of(*kinds)
    active = [folder for folder, state in runs if not state.has_ended and not state.is_waiting]
    begun = [folder for folder, state in runs if not state.is_waiting]
    return (active or begun or [folder for folder, _ in runs] or [None])[0]


def named_run(name: str | None) -> Folder | None:
    """The run of that name, among those below ``saves``: a name comes from a browser, and may be any path."""
    if not name:
        return None
    found = exactly(name)
    if found is not None or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        return found
    try:
        return find_folder(name)  # the last part of a name, or a title
    except LookupError:
        return None


def exactly(name: str) -> Folder | None:
    """The run below ``saves`` of this whole name."""
    found = _seldom(NAMES, _by_name).get(name)
    if found is None:  # since then it may have begun
        with _listed_lock:
            _listed.pop(NAMES, None)
        found = _seldom(NAMES, _by_name).get(name)
    return found


def _by_name() -> dict[str, Folder]:
    return {folder.name: folder for folder in all_folders()}


def active_run(*kinds: str) -> Folder | None:
    """The run of these kinds that is alive now; asked anew, never from memory."""
    runs = list_runs(*kinds)
    return next((folder for folder, state in runs if not state.has_ended and not state.is_waiting), None)


def look(folder: Folder | None) -> Progress | None:
    """How far a run is, as far as its log is read; None when there is none, or it has been deleted."""
    try:
        return glance(folder) if folder else None
    except (FileNotFoundError, KeyError, ValueError):
        return None


def is_active(progress: Progress | None) -> bool:
    return progress is not None and progress.status in ("starting", "running", "stopping")


def card(folder: Folder | None, progress: Progress | None, language: str, empty: str) -> str:
    """Status, progress bar with the time left, and the figures of a run.

    Args:
        empty: what is said when there is no run yet, as HTML.
    """
    if folder is None or progress is None:
        return f'<div class="run-card"><div class="empty">{empty}</div></div>'
    chip = f'<span class="chip {progress.status}">{escaped(words(f"page.status.{progress.status}", language))}</span>'
    parts = [f'<div class="run-head">{chip}<span class="run-name">{named(folder)}</span></div>']
    if progress.status == "queued":
        place = escaped(words("cli.queue.place", language, place=place_of(folder) or "–"))
        return f'<div class="run-card queued">{parts[0]}<div class="bar-line"><span>{place}</span></div></div>'
    parts += [_bar(progress, language), _tiles(progress, language)]
    if progress.status in ("failed", "lost"):
        parts.append(cause_notice(folder, language))
    for key, facts in progress.warnings[-3:]:
        parts.append(f'<div class="notice warning">{marked(sentence(key, language, facts))}</div>')
    return f'<div class="run-card {progress.status}">{"".join(parts)}</div>'


def named(folder: Folder) -> str:
    """How a run is called, as HTML: its title, if it has one, with its name in small letters."""
    title = read_notes(folder).title
    name = breakable(folder.name)
    return f"{escaped(title)} <small>{name}</small>" if title else name


def breakable(path: str) -> str:
    """A path or a name as HTML whose lines end behind a sign in it rather than within a word."""
    return re.sub(r"([/_\-])(?=[^/_\-])", r"\1<wbr>", escaped(path))


def log(folder: Folder | None, language: str) -> str:
    """The last lines of a run's log; the newest is at the bottom, where the view begins."""
    text = read_log(folder, LOG_BYTES).strip() if folder else ""
    shown = escaped(text or words("page.log.empty", language))
    label = escaped(words("page.log.label", language))
    return f'<div class="log" tabindex="0" role="log" aria-live="off" aria-label="{label}"><div>{shown}</div></div>'


def size(size_bytes: float | None) -> str:
    count = size_bytes or 0
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def moment(seconds_since_1970: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds_since_1970)) if seconds_since_1970 else "–"


def model_of(folder: Folder) -> str:
    """The model a run was asked for, or "–" when its job can no longer be read."""
    try:
        return _model_at(folder, folder.job.stat().st_mtime_ns)
    except UNREADABLE:
        return "–"


@lru_cache(maxsize=2048)
def _model_at(folder: Folder, changed_ns: int) -> str:
    job = read_job(folder)
    if getattr(job, "ollama", None):
        return f"ollama:{job.ollama}"
    return getattr(job, "gguf", None) or getattr(job, "model_name_or_path", None) or "–"


def percent(progress: Progress) -> float | None:
    """How much is done, 0 to 100; None when that cannot be said."""
    if progress.status == "done":
        return 100.0
    if progress.phase and progress.phase.total:
        return 100 * min(1, (progress.phase.current or 0) / progress.phase.total)
    if progress.phase is None and progress.total_steps:
        return 100 * min(1, progress.step / progress.total_steps)
    return None


def _bar(progress: Progress, language: str) -> str:
    done = percent(progress)
    passed = (progress.finished_at or time.time()) - progress.started_at if progress.started_at else progress.elapsed_s
    facts = [*_position(progress, language), words("page.progress.passed", language, time=clock(passed or 0))]
    if is_active(progress) and progress.remaining_s is not None and progress.phase is None:
        facts.append(words("page.progress.left", language, time=clock(progress.remaining_s)))
    if progress.finished_at and not is_active(progress):
        facts.append(words("page.progress.finished", language, time=moment(progress.finished_at)))
    is_unknown = done is None and is_active(progress)
    inner = '<div class="moving"></div>' if is_unknown else f'<div style="width:{done or 0:.1f}%"></div>'
    value = "" if done is None else f' aria-valuenow="{done:.0f}"'
    label = escaped(words("page.progress.label", language))
    return (
        f'<div class="bar" role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100"{value}>'
        f"{inner}</div>"
        f'<div class="bar-line">{"".join(f"<span>{escaped(fact)}</span>" for fact in facts if fact)}</div>'
    )


def _position(progress: Progress, language: str) -> list[str]:
    """The step, or the phase with its speed and the time left, with the share that is done."""
    done = percent(progress)
    share = f" · {done:.0f} %" if done is not None else ""
    if progress.phase and is_active(progress):
        first, *further = phase_facts(progress.phase, language)
        return [first + share, *further]
    if not progress.total_steps and is_active(progress):
        return [words("page.progress.waiting", language)]
    if progress.total_steps:
        return [words("page.progress.steps", language, step=progress.step, total=progress.total_steps) + share]
    return [share.removeprefix(" · ")]


def _tiles(progress: Progress, language: str) -> str:
    figures = [
        ("loss", progress.loss, "{:.4g}"), ("eval_loss", progress.eval_loss, "{:.4g}"),
        ("learning_rate", progress.learning_rate, "{:.2e}"), ("epoch", progress.epoch, "{:.2f}"),
        ("grad_norm", progress.grad_norm, "{:.3g}"), ("tokens_per_s", progress.tokens_per_s, "{:,.0f}"),
    ]  # fmt: skip
    tiles = [
        f"<div><dt>{escaped(words(f'page.figures.{name}', language))}</dt><dd>{form.format(value)}</dd></div>"
        for name, value, form in figures
        if value is not None
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""
