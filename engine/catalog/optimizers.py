"""What an optimizer remembers of each weight it trains, in bytes; by the names that ``optim`` takes."""

from __future__ import annotations

from collections.abc import Iterable

from engine.catalog.shape import Weight

NUMBERS = {
    "adamw": 2, "ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0, "lomo": 0, "adalomo": 0,
    "schedule_free_sgd": 2, "schedule_free": 2, "grokadamw": 3, "stable_adamw": 2, "muon": 1,
}  # fmt: skip
"""Numbers kept for each weight, in its own format; the longest name that a given one begins with counts."""
FACTORED = ("adafactor", "adalomo", "came")
"""Rows and columns of a matrix in place of the matrix (Shazeer and Stern 2018, arXiv 1804.04235)."""
PROJECTED = ("galore", "apollo")
"""Moments of a projection of 128 or fewer rows, and the projection (Zhao et al. 2024, arXiv 2403.03507)."""
PROJECTED_ROWS = 128


def state_bytes(optim: str, trained: Iterable[Weight], number_bytes: int) -> float:
    """The state of an optimizer; of one that is not known, as for AdamW.

    Args:
        optim: its name in ``transformers.TrainingArguments``; one with ``8bit`` in it keeps a byte for each number.
        number_bytes: of one trained weight.
    """
    if optim.startswith(FACTORED):
        return sum(_rows_and_columns(each) for each in trained) * number_bytes
    if optim.startswith(PROJECTED):
        return sum(_projected(each) for each in trained) * number_bytes
    name = optim.removeprefix("paged_")
    known = max((each for each in NUMBERS if name.startswith(each)), key=len, default="adamw")
    each_bytes = 1 if "8bit" in optim else 0.5 if "4bit" in optim else number_bytes
    return sum(each.count for each in trained) * NUMBERS[known] * each_bytes


def _rows_and_columns(weight: Weight) -> int:
    return sum(weight.shape) if len(weight.shape) > 1 else weight.count


def _projected(weight: Weight) -> int:
    if len(weight.shape) < 2 or min(weight.shape) <= PROJECTED_ROWS:
        return 2 * weight.count
    return 2 * PROJECTED_ROWS * max(weight.shape) + PROJECTED_ROWS * min(weight.shape)
