"""Columns of a terminal, in which a Chinese, Japanese or Korean letter takes two."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """How many columns a text takes."""
    letters = (letter for letter in text if not unicodedata.combining(letter))
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in letters)


def padded(text: str, columns: int) -> str:
    """A text as wide as so many columns; a wider one stays as it is."""
    return text + " " * max(0, columns - width(text))


def shortened(text: str, columns: int) -> str:
    """A text in one line of at most so many columns, its end replaced by "…" where it is longer."""
    line = " ".join(text.split())
    if width(line) <= columns:
        return line
    while width(line) > columns - 1:
        line = line[:-1]
    return line + "…"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, each column as wide as its widest cell."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(padded, row, widths)).rstrip() for row in rows]
