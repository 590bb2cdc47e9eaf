"""What watching a long run costs: the first read, a poll, the page's charts and their size, memory. Run from the root.

python benchmarks/watching.py [LINES]
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
from engine.runs.progress import watch
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


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place) / "run")
        folder.path.mkdir()
        update_state(folder, kind="train", status="done", started_at=1, finished_at=2)
        with folder.events.open("w") as log:
            log.writelines(line(step, count) for step in range(1, count + 1))
        print(f"{count} lines, {folder.events.stat().st_size / 1e6:.0f} MB")
        before = psutil.Process().memory_info().rss
        timed("first read", lambda: watch(folder))
        timed("poll, nothing new", lambda: watch(folder))
        found = watch(folder).curves
        timed("charts, first time (smooths the loss)", lambda: curves(found, "en"))
        print(f"{'memory that the run takes':40} {(psutil.Process().memory_info().rss - before) / 1e6:10.0f} MB")
        with folder.events.open("a") as log:
            log.writelines(line(count + step, count) for step in range(1, 11))
        timed("poll, ten new lines", lambda: watch(folder))
        timed("charts", lambda: curves(found, "en"))
        timed(
            "charts, the middle tenth, powers of ten",
            lambda: curves(found, "en", Window(count * 0.45, count * 0.55, True)),
        )
        print(f"{'HTML of all charts':40} {len(curves(found, 'en')) / 1e3:10.0f} kB")
        timed("CSV of all points", lambda: write_csv(found, Path(place) / "points.csv"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
