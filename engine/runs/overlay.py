"""The curves of several runs over one another: a chart for each curve, a line for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.runs.charts import FIRST, UNITS, Chart, Line, title_of
from engine.runs.compare import Run
from engine.runs.curves import Curve
from engine.runs.progress import Progress, is_measured
from engine.words import words

LEADING = ("loss", "eval_loss", *FIRST[1:])


def overlays(runs: Sequence[Run], language: str, axis: str = "step", is_smoothed: bool = True) -> list[Chart]:
    """The loss first, then the evaluation loss, what every training has, and what its stage measures.

    Args:
        axis: of ``engine.runs.charts.AXES``. A run that does not know its epochs or its length yet has no line there.
        is_smoothed: what is noisy (loss, gradient norm, what a stage measures) as its smoothed line.
    """
    names = dict.fromkeys(name for run in runs for name in run.progress.curves)
    ordered = [name for name in LEADING if name in names] + sorted(name for name in names if name not in LEADING)
    found = [_chart(name, runs, language, axis, is_smoothed and is_noisy(name)) for name in ordered]
    return [chart for chart in found if chart.lines]


def is_noisy(name: str) -> bool:
    return name in ("loss", "grad_norm") or (is_measured(name) and not name.startswith("eval_"))


def style_of(run: Run) -> str:
    """The colour and dashes of a run, the same in every chart."""
    return f"line-{run.place + 1}"


def columns(runs: Sequence[Run]) -> Mapping[str, Curve]:
    """All curves as they were logged, as ``write_csv`` takes them: "loss NAME" for each run, then the next curve."""
    names = dict.fromkeys((*LEADING, *(name for run in runs for name in run.progress.curves)))
    return {
        f"{name} {run.folder.name}": run.progress.curves[name]
        for name in names
        for run in runs
        if name in run.progress.curves
    }


def _chart(name: str, runs: Sequence[Run], language: str, axis: str, is_smoothed: bool) -> Chart:
    lines = []
    for run in runs:
        raw, per_step = run.progress.curves.get(name), _per_step(run.progress, axis)
        if raw is None or not len(raw) or not per_step:
            continue
        drawn = {"curve": raw.smoothed(), "raw": raw} if is_smoothed else {"curve": raw}
        lines.append(Line(run.label, style_of(run), per_step=per_step, **drawn))
    title = title_of(name, language)
    if is_smoothed:
        title = f"{title} · {words('page.curve.smoothed', language)}"
    return Chart(name, title, tuple(lines), UNITS.get(name, 1.0), axis)


def _per_step(progress: Progress, axis: str) -> float | None:
    """What one step is on an axis; None where the run does not say."""
    if axis == "step":
        return 1.0
    if axis == "share":
        return 100 / progress.total_steps if progress.total_steps else None
    return progress.epoch / progress.step if progress.epoch and progress.step else None
