"""What watching a long run costs: the first reading, a poll, the page's charts and their size, memory.

python benchmarks/watching.py [LINES], from the root
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import psutil

from engine.runs.curves import write_csv
from engine.runs.folder import Folder
from engine.runs.progress import _watches, glance, watch
from engine.runs.record import update_state
from webui.curve import Window, curves


def line(step: int, total: int) -> str:
    place = {
        "current_steps": step, "total_steps": total, "epoch": round(step / total, 4), "elapsed_time": "1:02:03",
        "percentage": round(100 * step / total, 2), "remaining_time": "2:03:04", "throughput": 12345.67,
        "total_tokens": step * 512, "memory_bytes": 17_179_869_184, "loss": 1 + math.exp(-step / 1e5) + step % 7 / 50,
        "lr": 1e-4 * (1 - step / total), "grad_norm": 1 + step % 11 / 10, "time": 1.7e9 + step,
    }  # fmt: skip
    return json.dumps(place) + "\n"


def timed(name: str, action) -> None:
    begin = time.perf_counter()
    action()
    print(f"{name:40} {(time.perf_counter() - begin) * 1000:10.1f} ms")


def timed_polls(folder: Folder) -> list[float]:
    """Seconds of each poll until a log is read, by a viewer who looks ten times a second."""
    found = []
    while True:
        begin = time.perf_counter()
        progress = glance(folder)
        found.append(time.perf_counter() - begin)
        if progress.is_read:
            return found
        time.sleep(0.1)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place) / "run")
        folder.path.mkdir()
        update_state(folder, kind="train", status="done", started_at=1, finished_at=2)
        with folder.events.open("w") as log:
            log.writelines(line(step, count) for step in range(1, count + 1))
        print(f"{count} lines, {folder.events.stat().st_size / 1e6:.0f} MB")
        before = psutil.Process().memory_info().rss
        begin = time.perf_counter()
        polls = timed_polls(folder)
        print(f"{'first reading by the page, in slices':40} {time.perf_counter() - begin:10.1f} s")
        print(f"{'first poll':40} {polls[0] * 1000:10.1f} ms")
        print(f"{f'the longest of the other {len(polls) - 1}':40} {max(polls[1:], default=0) * 1000:10.1f} ms")
        _watches.clear()
        timed("first reading in one go", lambda: watch(folder))
        timed("poll, nothing new", lambda: glance(folder))
        found = watch(folder).curves
        timed("charts, first time (smooths the loss)", lambda: curves(found, "en"))
        print(f"{'memory that the run takes':40} {(psutil.Process().memory_info().rss - before) / 1e6:10.0f} MB")
        with folder.events.open("a") as log:
            log.writelines(line(count + step, count) for step in range(1, 11))
        timed("poll, ten new lines", lambda: glance(folder))
        timed("charts", lambda: curves(found, "en"))
        timed(
            "charts, the middle tenth, powers of ten",
            lambda: curves(found, "en", Window(count * 0.45, count * 0.55, True)),
        )
        print(f"{'HTML of all charts':40} {len(curves(found, 'en')) / 1e3:10.0f} kB")
        timed("CSV of all points", lambda: write_csv(found, Path(place) / "points.csv"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
