"""A run's curves, or those of several, as a picture. Uses matplotlib's objects, never pyplot, whose state is global."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.runs.charts import Chart, charts_of
from engine.runs.compare import Run
from engine.runs.curves import Curve
from engine.runs.overlay import overlays
from engine.words import words

COLORS = {"raw": "#9db7d5", "smooth": "#1f5fa8", "thin": "#1f5fa8", "rejected": "#b23a48", "evaluated": "#c2571a"}
RUN_COLORS = ("#0072b2", "#d55e00", "#00855f", "#b0468f", "#8a6d00", "#475569")
"""Of the runs in an overlay, again and again: after Okabe and Ito, which differ for the colour-blind; page.css has the
same. With them go the dashes, so that the twelve pairs are all different."""
DASHES = ("-", (0, (6, 2.5)), (0, (1.5, 1.8)), (0, (8, 2, 1.5, 2)))
FONTS = {
    "zh": ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi", "PingFang SC", "Microsoft YaHei"),
    "ja": (
        "Noto Sans CJK JP",
        "Noto Sans JP",
        "Source Han Sans",
        "IPAGothic",
        "IPAexGothic",
        "Hiragino Sans",
        "Yu Gothic",
    ),
    "ko": (
        "Noto Sans CJK KR",
        "Noto Sans KR",
        "NanumGothic",
        "Apple SD Gothic Neo",
        "Malgun Gothic",
        "Noto Sans CJK JP",
    ),
}
"""Beginnings of the names of fonts with the letters that matplotlib's own font lacks."""
MOST_POINTS = 4000


def save_loss_plot(curves: Mapping[str, Curve], path: Path) -> None:
    """Write ``training_loss.png``. Its words are English: the file is for whoever opens the folder."""
    _save([chart for chart in charts_of(curves, "en") if chart.name == "loss"], path, "en", None)


def save_charts(curves: Mapping[str, Curve], path: Path, language: str) -> None:
    """Write all charts as one PNG, in a language, or in English where no font here has its letters."""
    font = _font(language)
    spoken = language if font or language not in FONTS else "en"
    _save(charts_of(curves, spoken), path, spoken, font)


def save_overlays(runs: Sequence[Run], path: Path, language: str, axis: str = "step", is_smoothed: bool = True) -> None:
    """Write the charts of several runs over one another as one PNG, with one legend for all."""
    font = _font(language)
    spoken = language if font or language not in FONTS else "en"
    _save(overlays(runs, spoken, axis, is_smoothed), path, spoken, font, has_one_legend=True)


def _save(charts: Sequence[Chart], path: Path, language: str, font: str | None, has_one_legend: bool = False) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 4.5 + 2.6 * math.ceil(max(0, len(charts) - 1) / 2)
    figure = Figure(figsize=(8 if len(charts) < 2 else 11, height), layout="constrained")
    lines = 2 + math.ceil(max(0, len(charts) - 1) / 2) if len(charts) > 1 else 1
    grid = figure.add_gridspec(lines, 2)
    told: dict[str, Any] = {}
    for number, chart in enumerate(charts):
        above = slice(0, min(2, lines))
        place = grid[above, :] if not number else grid[2 + (number - 1) // 2, (number - 1) % 2]
        axes = figure.add_subplot(place)
        _draw(axes, chart, language, {"family": font} if font else {})
        handles, names = axes.get_legend_handles_labels()
        told |= dict(zip(names, handles, strict=True))
        if len(names) > 1 and not has_one_legend:
            axes.legend(prop={"family": font} if font else None)
    if has_one_legend:
        prop = {"family": font} if font else None
        figure.legend(told.values(), told, loc="outside lower center", ncols=3, prop=prop)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    FigureCanvasAgg(figure).print_png(str(temporary))
    temporary.replace(path)


def _draw(axes: Any, chart: Chart, language: str, font: dict[str, str]) -> None:
    for line in chart.lines:
        points = line.view(None, None, MOST_POINTS)
        steps, values = [step for step, _ in points], [value * chart.unit for _, value in points]
        is_evaluated = line.style == "evaluated"
        color, dash = _look(line.style)
        name = line.name.replace("$", r"\$")  # else what stands between two is set as a formula
        axes.plot(
            steps, values, color=color, linestyle=dash, linewidth=2 if line.style == "smooth" else 1, label=name,
            marker="o" if is_evaluated or len(points) == 1 else None, markersize=3,
        )  # fmt: skip
    axes.set_title(chart.title, **font)
    axes.set_xlabel(words(f"page.curve.{chart.axis}", language), **font)
    axes.grid(alpha=0.25)


def _look(style: str) -> tuple[str, Any]:
    """Colour and dashes of a line."""
    if style in COLORS:
        return COLORS[style], "-"
    number = int(style.removeprefix("line-")) - 1
    return RUN_COLORS[number % len(RUN_COLORS)], DASHES[number % len(DASHES)]


def _font(language: str) -> str | None:
    """A font of this machine with the letters of the language; None where its own has them, or none does."""
    if language not in FONTS:
        return None
    from matplotlib.font_manager import fontManager

    names = sorted({font.name for font in fontManager.ttflist})
    return next((name for begin in FONTS[language] for name in names if name.startswith(begin)), None)
