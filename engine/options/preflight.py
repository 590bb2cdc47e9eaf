"""How much is done before a training to find out whether it fits."""

from __future__ import annotations

from engine.options.base import Options
from engine.options.option import option


class Preflight(Options):
    """Counted lengths, or measured steps as well."""

    count_lengths: bool = option(True, level="command")  # tokenize the rows first; False: all of cutoff_len tokens
    smoke: bool = option(False, level="command")  # two optimizer steps on the longest rows
