"""A run's charts as HTML with a stretched SVG: sharp at any width, light and dark, with a value under the pointer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.runs.charts import charts_of
from engine.runs.curves import Curve
from engine.words import words
from webui.language import escaped

MOST_POINTS = {"large": 1000, "small": 300}
"""Of a line in a chart of that size."""
MOST_HINTS = {"large": 100, "small": 24}


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``style`` is its class in page.css: "raw", "smooth", "evaluated", "thin" or "rejected"."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Window:
    """Steps from ``first`` to ``last`` (None: no limit); ``is_log``: the loss by powers of ten."""

    first: float | None = None
    last: float | None = None
    is_log: bool = False


WHOLE = Window()


def curves(found: Mapping[str, Curve], language: str, window: Window = WHOLE) -> str:
    """The loss large, all else small below it; a hint when there is no point yet.

    Each line has at most 1,000 points, whatever the length of the run: the least and greatest of every stretch.
    """
    large, small = [], []
    for each in charts_of(found, language):
        size = "large" if each.name == "loss" else "small"
        most = MOST_POINTS[size]
        lines = [
            Line(line.name, line.style, [(step, value * each.unit) for step, value in points])
            for line in each.lines
            if (points := line.curve.view(window.first, window.last, most))
        ]
        drawn = chart(each.title, lines, language, size, window.is_log and size == "large")
        (large if size == "large" else small).append(drawn)
    if not any((*large, *small)):
        key = "page.curves.nothing_here" if found else "page.curve.empty"
        return f'<div class="empty chart-empty">{escaped(words(key, language))}</div>'
    return f'{"".join(large)}<div class="small-charts">{"".join(small)}</div>'


def chart(title: str, lines: Sequence[Line], language: str, size: str, is_log: bool = False) -> str:
    """One chart with its title, legend (of several lines), axes, and hints for steps under the pointer.

    Args:
        is_log: the values by powers of ten; what is not above 0 then has no place.
    """
    shown = [value for line in lines for _, value in line.points if math.isfinite(value)]
    is_log = is_log and any(value > 0 for value in shown)
    if is_log:
        shown = [math.log10(value) for value in shown if value > 0]
    if not any(line.points for line in lines):
        return ""
    low, high = _range(min(shown), max(shown), is_log) if shown else (0.0, 1.0)
    first = min(line.points[0][0] for line in lines if line.points)
    last = max(first + 1, *(line.points[-1][0] for line in lines if line.points))

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
        f'<span style="left:{x(tick) / 10:.1f}%">{number(tick)}</span>' for tick in ticks(first, last, 6, whole=True)
    )
    legend = "".join(f'<span class="key {line.style}">{escaped(line.name)}</span>' for line in lines)
    step_word = escaped(words("page.curve.step", language))
    return (
        f'<figure class="chart {size}" data-first="{first:g}" data-last="{last:.17g}"><figcaption>'
        f'<b>{escaped(title)}</b><span class="legend">{legend if len(lines) > 1 else ""}</span></figcaption>'
        f'<div class="plot" role="img" tabindex="0" aria-label="{escaped(_spoken(title, lines))}">'
        f'<div class="y-axis">{left}</div><div class="area">'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"><g class="grid">{grid}</g>{drawn}'
        f"</svg>{_hints(lines, x, language, MOST_HINTS[size])}</div>"
        f'<div class="x-axis">{below}<em>{step_word}</em></div></div></figure>'
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


def _hints(lines: Sequence[Line], x: Callable[[float], float], language: str, most: int) -> str:
    """Invisible strips over the chart; the one under the pointer shows the values at its step."""
    at: dict[float, list[str]] = {}
    steps = sorted({step for line in lines for step, _ in line.points})
    steps = steps[:: math.ceil(len(steps) / most)]
    chosen = set(steps)
    for line in lines:
        for step, value in line.points:
            if step in chosen:
                at.setdefault(step, []).append(f"{line.name} {number(value)}")
    step_word = words("page.curve.step", language)
    strips = []
    for index, step in enumerate(steps):
        begin = (x(steps[index - 1]) + x(step)) / 20 if index else 0
        end = (x(step) + x(steps[index + 1])) / 20 if index + 1 < len(steps) else 100
        side = "left" if x(step) > 600 else "right"
        text = "<br>".join(escaped(part) for part in [f"{step_word} {step:.15g}", *at[step]])
        line_at = f"{(x(step) / 10 - begin) / max(end - begin, 1e-9) * 100:.1f}%"
        strips.append(
            f'<i style="left:{begin:.2f}%;width:{end - begin:.2f}%"><u style="left:{line_at}"></u>'
            f'<span class="{side}" style="left:{line_at}">{text}</span></i>'
        )
    return f'<div class="hints" aria-hidden="true">{"".join(strips)}</div>'


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
