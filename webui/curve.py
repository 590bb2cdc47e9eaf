"""A run's curves as HTML with a stretched SVG: sharp at any width, light and dark, with a value under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.runs.progress import smoothed
from engine.words import words
from webui.language import escaped

MAX_POINTS = 600
MAX_HINTS = 120
SMALL = {
    "accuracy": "rewards/accuracies", "margin": "rewards/margins", "reward": "reward",
    "learning_rate": "learning_rate", "grad_norm": "grad_norm",
}  # fmt: skip
"""The charts below the loss: name → what is drawn, as the log calls it."""


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``style`` is its class in page.css: "raw", "smooth", "evaluated" or "thin"."""

    name: str
    style: str
    steps: Sequence[float]
    values: Sequence[float]


def curves(points: Sequence[dict[str, Any]], language: str) -> str:
    """The loss large, learning rate and gradient norm small below it; a hint when there is no point yet."""
    lines = _loss_lines(points, language)
    if not lines:
        return f'<div class="empty chart-empty">{escaped(words("page.curve.empty", language))}</div>'
    small = "".join(
        chart(words(f"page.curve.{name}", language), [_line(points, key, "thin", language, name)], language, "small")
        for name, key in SMALL.items()
        if any(key in point for point in points)
    )
    loss = chart(words("page.curve.loss", language), lines, language, "large")
    return f'{loss}<div class="small-charts">{small}</div>'


def chart(title: str, lines: Sequence[Line], language: str, size: str) -> str:
    """One chart with its title, legend (of several lines), axes, and a hint for each step under the pointer."""
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    steps = [step for line in lines for step in line.steps]
    if not finite:
        return ""
    low, high = _range(min(finite), max(finite))
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(step: float) -> float:
        return (step - first) / (last - first) * 1000

    def y(value: float) -> float:
        return (high - value) / (high - low) * 1000

    drawn = "".join(_drawn(line, x, y) for line in lines)
    values = ticks(low, high)
    grid = "".join(f'<line x1="0" x2="1000" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>' for tick in values)
    left = "".join(f'<span style="top:{y(tick) / 10:.1f}%">{number(tick)}</span>' for tick in values)
    below = "".join(
        f'<span style="left:{x(tick) / 10:.1f}%">{number(tick)}</span>' for tick in ticks(first, last, 6, whole=True)
    )
    legend = "".join(f'<span class="key {line.style}">{escaped(line.name)}</span>' for line in lines)
    spoken = escaped(_spoken(title, lines))
    step_word = escaped(words("page.curve.step", language))
    return (
        f'<figure class="chart {size}"><figcaption><b>{escaped(title)}</b>'
        f'<span class="legend">{legend if len(lines) > 1 else ""}</span></figcaption>'
        f'<div class="plot" role="img" aria-label="{spoken}"><div class="y-axis">{left}</div><div class="area">'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"><g class="grid">{grid}</g>{drawn}'
        f"</svg>{_hints(lines, x, language)}</div>"
        f'<div class="x-axis">{below}<em>{step_word}</em></div></div></figure>'
    )


def thinned(steps: Sequence[float], values: Sequence[float], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points: the lowest and the highest of each stretch, so that no spike is lost."""
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if len(pairs) <= most:
        return pairs
    stretch = math.ceil(len(pairs) / (most // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(pairs), stretch):
        part = pairs[start : start + stretch]
        ends = {min(part, key=lambda pair: pair[1]), max(part, key=lambda pair: pair[1])}
        kept += sorted(ends)
    return kept


def _loss_lines(points: Sequence[dict[str, Any]], language: str) -> list[Line]:
    raw = _line(points, "loss", "raw", language)
    lines = []
    if raw.values:
        name = words("page.curve.smoothed", language)
        finite = [value for value in raw.values if math.isfinite(value)]
        lines.append(Line(words("page.curve.raw", language), "raw", raw.steps, raw.values))
        if len(finite) == len(raw.values):
            lines.append(Line(name, "smooth", raw.steps, smoothed(list(raw.values))))
    evaluated = _line(points, "eval_loss", "evaluated", language)
    return [*lines, evaluated] if evaluated.values else lines


def _line(points: Sequence[dict[str, Any]], key: str, style: str, language: str, name: str | None = None) -> Line:
    found = [(point["step"], float(point[key])) for point in points if point.get(key) is not None]
    return Line(words(f"page.curve.{name or key}", language), style, [s for s, _ in found], [v for _, v in found])


def _drawn(line: Line, x, y) -> str:
    pairs = thinned(line.steps, line.values)
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in pairs)
    drawn = f'<polyline class="{line.style}" points="{path}"/>'
    if line.style == "evaluated" or len(pairs) == 1:  # a zero-length line with round ends is a round dot at any width
        dots = "".join(f"M{x(step):.1f},{y(value):.1f}h0" for step, value in pairs)
        drawn += f'<path class="dot {line.style}" d="{dots}"/>'
    return drawn


def _hints(lines: Sequence[Line], x, language: str) -> str:
    """Invisible strips over the chart; the one under the pointer shows the values at its step."""
    at: dict[float, list[str]] = {}
    for line in lines:
        for step, value in zip(line.steps, line.values, strict=True):
            at.setdefault(step, []).append(f"{line.name} {number(value)}")
    every = math.ceil(len(at) / MAX_HINTS)
    steps = sorted(at)[::every]
    step_word = words("page.curve.step", language)
    strips = []
    for index, step in enumerate(steps):
        begin = (x(steps[index - 1]) + x(step)) / 20 if index else 0
        end = (x(step) + x(steps[index + 1])) / 20 if index + 1 < len(steps) else 100
        side = "left" if x(step) > 600 else "right"
        text = "<br>".join(escaped(part) for part in [f"{step_word} {step:g}", *at[step]])
        line_at = f"{(x(step) / 10 - begin) / max(end - begin, 1e-9) * 100:.1f}%"
        strips.append(
            f'<i style="left:{begin:.2f}%;width:{end - begin:.2f}%"><u style="left:{line_at}"></u>'
            f'<span class="{side}" style="left:{line_at}">{text}</span></i>'
        )
    return f'<div class="hints" aria-hidden="true">{"".join(strips)}</div>'


def _spoken(title: str, lines: Sequence[Line]) -> str:
    parts = [f"{line.name} {number(line.values[0])} → {number(line.values[-1])}" for line in lines if line.values]
    return f"{title}: {', '.join(parts)}"


def _range(low: float, high: float) -> tuple[float, float]:
    """A little more than the values span, so that no line touches the frame."""
    span = high - low or abs(high) * 0.2 or 1.0
    bottom = low - 0.08 * span
    return (0.0 if low >= 0 and bottom < 0 else bottom), high + 0.08 * span


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
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"
