"""A run's loss curve as a picture. Uses matplotlib's objects, never pyplot, whose state is global."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.runs.progress import smoothed


def loss_figure(points: Sequence[dict[str, Any]], title: str, raw: str, smooth: str, x_label: str) -> Any:
    """A matplotlib ``Figure`` of the training loss by step, raw and smoothed, and of the evaluation loss if any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [point["step"] for point in points if "loss" in point]
    losses = [point["loss"] for point in points if "loss" in point]
    axes.plot(steps, losses, color="#9db7d5", linewidth=1, label=raw)
    axes.plot(steps, smoothed(losses), color="#1f5fa8", linewidth=2, label=smooth)
    evaluated = [(point["step"], point["eval_loss"]) for point in points if "eval_loss" in point]
    if evaluated:
        axes.plot(*zip(*evaluated, strict=True), color="#c2571a", marker="o", markersize=3, label="eval_loss")
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def save_loss_plot(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Write ``training_loss.png``. Its words are English: the file is for whoever opens the folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = loss_figure(points, "Training loss", "raw", "smoothed", "step")
    temporary = path.with_suffix(".tmp.png")
    FigureCanvasAgg(figure).print_png(str(temporary))
    temporary.replace(path)
