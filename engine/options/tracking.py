"""Who is told of a run's end; and settings of SwanLab, where runs are compared (others' are ``transformers`` own)."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Options
from engine.options.option import option

_SWANLAB = {"use_swanlab": (True,)}


class Tracking(Options):
    """Keys and tokens are no options: they come from the environment, and never enter a run's folder."""

    on_finish: str | None = option(None, level="owner")  # an address, or a command
    use_swanlab: bool = option(False, level="command")  # as report_to: swanlab
    swanlab_project: str | None = option("llamafactory", when=_SWANLAB, level="command")  # as commands expect it
    swanlab_workspace: str | None = option(None, when=_SWANLAB, level="command")
    swanlab_run_name: str | None = option(None, when=_SWANLAB, level="command")
    swanlab_mode: Literal["cloud", "local"] = option("cloud", when=_SWANLAB, level="command")
    swanlab_logdir: str | None = option(None, when=_SWANLAB, level="command", control="path")
