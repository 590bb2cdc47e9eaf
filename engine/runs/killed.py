"""Whether the operating system ends processes for want of memory; one that it ends can say nothing itself."""

from __future__ import annotations

from pathlib import Path


def kills_for_memory(proc: Path = Path("/proc")) -> int | None:
    """How many processes it has ended so since the machine was started (Linux 4.13 or later); None: it does not say.

    In a container the count is that of the whole machine, so it may be a neighbour's process that was ended.
    """
    try:
        lines = (proc / "vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def lost_to_memory(before: int | None) -> dict | None:
    """What is said of a run whose process is gone: an error as a state keeps it, or None where nothing is known.

    Args:
        before: ``kills_for_memory`` when the run began. After a restart of the machine the count begins anew.
    """
    now = kills_for_memory()
    if before is None or now is None or now <= before:
        return None
    return {"key": "lost_to_memory", "facts": {"count": now - before}}
