"""Times as a log and a person read them: ``1:02:03``, the same in every language."""

from __future__ import annotations


def seconds(clock: str | None) -> float | None:
    """``"1:02:03"`` or ``"2 days, 1:02:03"`` → seconds."""
    if not clock:
        return None
    days, _, rest = clock.rpartition(" day")
    hours, minutes, secs = rest.rsplit(" ", 1)[-1].split(":")
    return (int(days) if days else 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(secs)


def clock(time_s: float) -> str:
    """Seconds as ``1:02:03``; what ``seconds`` reads."""
    whole = max(0, int(time_s))
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
