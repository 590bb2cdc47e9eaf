"""Charts of a run, or of several over one another, as HTML with a stretched SVG: sharp at any width, light and dark,
with a value under the pointer."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from engine.runs.charts import Chart, charts_of
from engine.runs.curves import Curve
from engine.words import words
from webui.language import escaped

MOST_POINTS = {"large": 1000, "small": 300}
"""Of a line in a chart of that size."""
MANY_LINES = 4
"""From twice as many on, each has fewer points: nobody can follow more, and the page stays light."""
MOST_HINTS = {"large": 100, "small": 24}


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``style`` is its class in page.css: one of those of ``engine.runs.charts.Line``."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Window:
    """From ``first`` to ``last`` on the axis (None: no limit); ``is_log``: the loss by powers of ten."""

    first: float | None = None
    last: float | None = None
    is_log: bool = False


WHOLE = Window()


def curves(found: Mapping[str, Curve], language: str, window: Window = WHOLE) -> str:
    """The charts of a run; a hint when there is no point yet."""
    return charts(charts_of(found, language), language, window)


def charts(found: Sequence[Chart], language: str, window: Window = WHOLE, has_legends: bool = True) -> str:
    """The loss large, all else small below it; a hint when there is no point in the window.

    Each line has at most 1,000 points, whatever the length of the run: the least and greatest of every stretch.
    """
    large, small = [], []
    for each in found:
        size = "large" if each.name == "loss" else "small"
        most = MOST_POINTS[size] // max(1, len(each.lines) // MANY_LINES)
        lines = [
            Line(line.name, line.style, [(step, value * each.unit) for step, value in points])
            for line in each.lines
            if (points := line.view(window.first, window.last, most))
        ]
        drawn = chart(
            each.title, lines, language, size, window.is_log and size == "large", axis=each.axis,
            has_legend=has_legends,
        )  # fmt: skip
        (large if size == "large" else small).append(drawn)
    if not any((*large, *small)):
        key = "page.curves.nothing_here" if found else "page.curve.empty"
        return f'<div class="empty chart-empty">{escaped(words(key, language))}</div>'
    return f'{"".join(large)}<div class="small-charts">{"".join(small)}</div>'


def chart(
    title: str, lines: Sequence[Line], language: str, size: str, is_log: bool = False, axis: str = "step",
    has_legend: bool = True,
) -> str:  # fmt: skip
    """One chart with its title, legend (of several lines), axes, and hints for steps under the pointer.

    Args:
        is_log: the values by powers of ten; what is not above 0 then has no place.
        axis: what stands below: "step", "epoch" or "share".
    """
    shown = [value for line in lines for _, value in line.points if math.isfinite(value)]
    is_log = is_log and any(value > 0 for value in shown)
    if is_log:
        shown = [math.log10(value) for value in shown if value > 0]
    if not any(line.points for line in lines):
        return ""
    low, high = _range(min(shown), max(shown), is_log) if shown else (0.0, 1.0)
    first = min(line.points[0][0] for line in lines if line.points)
    last = max(line.points[-1][0] for line in lines if line.points)
    last = last if last > first else first + 1

    def x(step: float) -> float:
        return (step - first) / (last - first) * 1000

    def y(value: float) -> float | None:
        """From the top; None: it has no place."""
        if not math.isfinite(value) or (is_log and value <= 0):
            return None
        return (high - (math.log10(value) if is_log else value)) / (high - low) * 1000

    drawn = "".join(_drawn(line, x, y) for line in lines)
    marks = ticks(low, high)
    values = [(10**mark if is_log else mark, (high - mark) / (high - low) * 1000) for mark in marks]
    grid = "".join(f'<line x1="0" x2="1000" y1="{at:.1f}" y2="{at:.1f}"/>' for _, at in values)
    left = "".join(f'<span style="top:{at / 10:.1f}%">{number(value)}</span>' for value, at in values)
    below = "".join(
        f'<span style="left:{x(tick) / 10:.1f}%">{number(tick)}</span>'
        for tick in ticks(first, last, 6, whole=axis == "step")
    )
    keys = lines if has_legend and len(lines) > 1 else ()
    legend = "".join(f'<span class="key {line.style}">{escaped(line.name)}</span>' for line in keys)
    below_word = words(f"page.curve.{axis}", language)
    return (
        f'<figure class="chart {size}" data-first="{first:.17g}" data-last="{last:.17g}"><figcaption>'
        f'<b>{escaped(title)}</b><span class="legend">{legend}</span></figcaption>'
        f'<div class="plot" role="img" tabindex="0" aria-label="{escaped(_spoken(title, lines))}">'
        f'<div class="y-axis">{left}</div><div class="area">'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"><g class="grid">{grid}</g>{drawn}'
        f"</svg>{_hints(lines, x, below_word, MOST_HINTS[size])}</div>"
        f'<div class="x-axis">{below}<em>{escaped(below_word)}</em></div></div></figure>'
    )


def _drawn(line: Line, x: Callable[[float], float], y: Callable[[float], float | None]) -> str:
    """The line in pieces: it breaks where a value has no place, and there a mark stands."""
    path, odd, dots, is_open = [], [], [], False
    for step, value in line.points:
        at = y(value)
        if at is None:
            odd.append(f"M{x(step):.1f},0v1000")
            is_open = False
            continue
        path.append(f"{'L' if is_open else 'M'}{x(step):.1f},{at:.1f}")
        dots.append(f"M{x(step):.1f},{at:.1f}h0")  # of no length with round ends: a round dot at any width
        is_open = True
    drawn = f'<path class="{line.style}" d="{"".join(path)}"/>'
    if line.style == "evaluated" or len(path) == 1:
        drawn += f'<path class="dot {line.style}" d="{"".join(dots)}"/>'
    if odd:
        drawn += f'<path class="odd" d="{"".join(odd)}"/>'
    return drawn


def _hints(lines: Sequence[Line], x: Callable[[float], float], below_word: str, most: int) -> str:
    """Invisible strips over the chart; the one under the pointer shows the values there.

    A line without a point at just that step, as of a run that logs less often, shows its nearest in the strip.
    """
    steps = sorted({step for line in lines for step, _ in line.points})
    steps = steps[:: math.ceil(len(steps) / most)]
    ends = [-math.inf, *((one + two) / 2 for one, two in itertools.pairwise(steps)), math.inf]
    strips = []
    for index, step in enumerate(steps):
        begin = (x(steps[index - 1]) + x(step)) / 20 if index else 0
        end = (x(step) + x(steps[index + 1])) / 20 if index + 1 < len(steps) else 100
        side = "left" if x(step) > 600 else "right"
        values = [_value_near(line, step, *ends[index : index + 2]) for line in lines]
        text = "<br>".join(escaped(part) for part in (f"{below_word} {_place(step)}", *filter(None, values)))
        line_at = f"{(x(step) / 10 - begin) / max(end - begin, 1e-9) * 100:.1f}%"
        strips.append(
            f'<i style="left:{begin:.2f}%;width:{end - begin:.2f}%"><u style="left:{line_at}"></u>'
            f'<span class="{side}" style="left:{line_at}">{text}</span></i>'
        )
    return f'<div class="hints" aria-hidden="true">{"".join(strips)}</div>'


def _value_near(line: Line, step: float, begin: float, end: float) -> str:
    """A line's value at a step, or at the nearest one that it has within the limits, which is then told too."""
    place = bisect_left(line.points, step, key=itemgetter(0))
    near = [each for each in line.points[max(0, place - 1) : place + 1] if begin <= each[0] <= end]
    if not near:
        return ""
    at, value = min(near, key=lambda each: abs(each[0] - step))
    return f"{line.name} {number(value)}" + ("" if at == step else f" ({_place(at)})")


def _place(at: float) -> str:
    """A step in full, a part of an epoch or of a training in short."""
    return f"{at:.15g}" if at == int(at) else f"{at:.4g}"


def _spoken(title: str, lines: Sequence[Line]) -> str:
    parts = [f"{line.name} {number(line.points[0][1])} → {number(line.points[-1][1])}" for line in lines if line.points]
    return f"{title}: {', '.join(parts)}"


def _range(low: float, high: float, is_log: bool) -> tuple[float, float]:
    """A little more than the values span, so that no line touches the frame."""
    span = high - low or abs(high) * 0.2 or 1.0
    bottom = low - 0.08 * span
    return (0.0 if low >= 0 and bottom < 0 and not is_log else bottom), high + 0.08 * span


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers between two values."""
    rough = (high - low) / most
    size = 10 ** math.floor(math.log10(rough))
    interval = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    if whole:
        interval = max(1, interval)
    count = math.ceil(low / interval - 1e-9)
    found = []
    while count * interval <= high + 1e-9 * interval:
        found.append(count * interval)
        count += 1
    return found


def number(value: float) -> str:
    """A figure of an axis or a hint, short."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"
