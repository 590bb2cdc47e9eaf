"""Which curves of a run are drawn together, and what each is called; the page and the picture draw the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter

from engine.runs.curves import Curve
from engine.words import words

FIRST = ("loss", "learning_rate", "grad_norm", "throughput", "memory_bytes")
NAMED = {
    **{name: f"page.curve.{name}" for name in ("loss", "learning_rate", "grad_norm", "reward")},
    "rewards/accuracies": "page.curve.accuracy", "rewards/margins": "page.curve.margin",
    **{name: f"page.curves.{name}" for name in ("throughput", "memory_bytes", "kl", "entropy", "rewards", "logps")},
}  # fmt: skip
PAIR = ("chosen", "rejected")
AXES = ("step", "epoch", "share")
"""What stands below a chart: steps, epochs, or percent of the training."""
UNITS = {"memory_bytes": 1e-9}
"""What a value is multiplied by before it is shown."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        style: "raw", "smooth", "evaluated", "thin" or "rejected"; of one run among several "line-1", "line-2" and on.
        per_step: what a step of the curve is on the chart's axis: 1, or a part of an epoch or of the training.
        raw: of a smoothed line, drawn alone, the curve whose values that are no numbers are shown with it.
    """

    name: str
    style: str
    curve: Curve
    per_step: float = 1.0
    raw: Curve | None = None

    def view(self, first: float | None, last: float | None, most: int) -> list[tuple[float, float]]:
        """``Curve.view`` on the chart's axis."""
        limits = [None if end is None else end / self.per_step for end in (first, last)]
        logged = self.raw.view(*limits, most // 2) if self.raw is not None else ()
        odd = [point for point in logged if not math.isfinite(point[1])]
        points = sorted(self.curve.view(*limits, most - len(odd)) + odd, key=itemgetter(0))
        return points if self.per_step == 1 else [(step * self.per_step, value) for step, value in points]


@dataclass(frozen=True)
class Chart:
    """``name`` is "loss" or what the log calls the value; ``unit`` what values are multiplied by; ``axis`` is one of
    ``AXES``."""

    name: str
    title: str
    lines: tuple[Line, ...]
    unit: float = 1.0
    axis: str = "step"


def charts_of(curves: Mapping[str, Curve], language: str) -> list[Chart]:
    """The loss first, then what every training has, then what its stage measures."""
    names = dict.fromkeys(_chart_of(name) for name in curves)
    measured = sorted(name for name in names if name not in FIRST)
    return [_chart(name, curves, language) for name in (*FIRST, *measured) if name in names]


def title_of(name: str, language: str) -> str:
    """What a single curve is called where it has a chart of its own."""
    of, _, last = name.removeprefix("eval_").rpartition("/")
    of, pair = (of, last) if last in PAIR and of else (name.removeprefix("eval_"), None)
    title = words(NAMED[of], language) if of in NAMED else of
    parts = [words(f"page.curves.{pair}", language)] if pair else []
    parts += [words("page.curve.eval_loss", language)] if name.startswith("eval_") else []
    return " · ".join((title, *parts))


def _chart_of(name: str) -> str:
    """Chosen and rejected answers, and training and evaluation, share a chart."""
    name = name.removeprefix("eval_")
    group, _, last = name.rpartition("/")
    return group if last in PAIR and group else name


def _chart(name: str, curves: Mapping[str, Curve], language: str) -> Chart:
    title = words(NAMED[name], language) if name in NAMED else name
    lines = []
    if name == "loss":
        if "loss" in curves:
            smoothed = curves["loss"].smoothed()
            lines = [Line(words("page.curve.raw", language), "raw", curves["loss"])]
            lines += [Line(words("page.curve.smoothed", language), "smooth", smoothed)] if len(smoothed) else []
    elif name in curves:
        lines = [Line(title, "thin", curves[name])]
    for each, style in zip(PAIR, ("thin", "rejected"), strict=True):
        lines += (
            [Line(words(f"page.curves.{each}", language), style, curves[f"{name}/{each}"])]
            if f"{name}/{each}" in curves
            else []
        )
    evaluation = words("page.curve.eval_loss", language)
    lines += [Line(evaluation, "evaluated", curves[f"eval_{name}"])] if f"eval_{name}" in curves else []
    for each in PAIR:
        if (curve := curves.get(f"eval_{name}/{each}")) is not None:
            lines.append(Line(f"{evaluation}: {words(f'page.curves.{each}', language)}", "evaluated", curve))
    return Chart(name, title, tuple(line for line in lines if len(line.curve)), UNITS.get(name, 1.0))
