"""What a run does before, between and after its steps: how far it is, how fast, and how much longer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from engine.runs.times import clock
from engine.words import has_words, words


@dataclass(frozen=True)
class Phase:
    """One part of a run's work.

    Args:
        name: a key below ``phases`` in the locales.
        current, total: how much is done, of how much, in ``unit`` ("rows", "bytes", "tensors"); None: not known.
        began_at: when it was first told; told_at: when it was told last. Seconds since 1970.
        began_with: how much was done by then: what an earlier attempt had done says nothing of the speed.
    """

    name: str
    current: int | None = None
    total: int | None = None
    unit: str | None = None
    began_at: float | None = None
    told_at: float | None = None
    began_with: int = 0

    @property
    def rate(self) -> float | None:
        """Units per second since it began; None while nothing can be said."""
        if self.current is None or self.began_at is None or self.told_at is None:
            return None
        done, passed = self.current - self.began_with, self.told_at - self.began_at
        return done / passed if done > 0 and passed > 0 else None

    def remaining_s(self, now: float) -> float | None:
        """Seconds to its end, at the speed until now; None where that is not known, or has proven wrong."""
        if not self.rate or not self.total or self.told_at is None:
            return None
        left = (self.total - (self.current or 0)) / self.rate - max(0.0, now - self.told_at)
        return left if left > 0 else None


def told(event: dict[str, Any], before: Phase | None) -> Phase:
    """The phase that an event tells; one that goes on keeps its beginning. What counts anew has begun anew."""
    named = {name: event[name] for name in ("current", "total", "unit") if name in event}
    at = event.get("time")
    phase = Phase(event["phase"], **named, began_at=at, told_at=at, began_with=named.get("current") or 0)
    if before is None or before.name != phase.name or (before.current or 0) > (phase.current or 0):
        return phase
    began_with = before.began_with if before.current is not None else 0
    return replace(phase, began_at=before.began_at, began_with=began_with)


def phase_words(name: str, language: str) -> str:
    return words(f"phases.{name}", language) if has_words(f"phases.{name}") else name


def phase_facts(phase: Phase, language: str, now: float | None = None) -> list[str]:
    """What is done and how far, how fast, and how much longer or, where that cannot be known, for how long already.

    Args:
        now: seconds since 1970; the present where nothing is said.
    """
    now = time.time() if now is None else now
    text = phase_words(phase.name, language)
    if phase.total:
        text += f" {amount(phase.current, phase.unit)} / {amount(phase.total, phase.unit)}"
    elif phase.current:
        text += f" {amount(phase.current, phase.unit)}"
    facts = [text]
    if phase.rate:
        facts.append(words("progress.rate", language, amount=amount(phase.rate, phase.unit, is_rate=True)))
    remaining = phase.remaining_s(now)
    if remaining is not None:
        facts.append(words("page.progress.left", language, time=clock(remaining)))
    elif phase.began_at is not None:
        facts.append(words("progress.so_far", language, time=clock(now - phase.began_at)))
    return facts


def amount(value: float | None, unit: str | None, is_rate: bool = False) -> str:
    """A number of a unit, as short as it says enough: 12 MB, 1,200 (rows)."""
    value = value or 0
    if unit == "bytes":
        return (
            f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB" if is_rate else f"{value / 1e6:.0f} MB"
        )
    return f"{value:,.3g}" if is_rate and value < 100 else f"{value:,.0f}"
