"""How long the list of 1,000 runs takes, each with a log of 1 MB: in a process that has just begun, and again.

All of them ended and left a summary; then the same without one, as runs of earlier versions and killed ones are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RUNS, LOG_BYTES = 1000, 1_000_000
TIMED = """
import time
from engine.runs.listing import listed
for _ in range(3):
    begun = time.perf_counter()
    count = len(listed())
    print(f"{count} runs: {1000 * (time.perf_counter() - begun):.0f} ms")
"""


def main() -> None:
    for has_summary in (True, False):
        print("with a summary:" if has_summary else "without:")
        measure(has_summary)


def measure(has_summary: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        line = json.dumps({"current_steps": 9, "total_steps": 40, "epoch": 0.5, "loss": 2.5, "lr": 1e-4}) + "\n"
        told = {"model": "Smol", "method": "lora", "datasets": ["poems"]}
        for number in range(RUNS):
            folder = Path(place, "saves", "Smol", "lora", f"train_{number}")
            folder.mkdir(parents=True)
            state = {"kind": "train", "status": "done", "started_at": number, "finished_at": number + 60, "about": told}
            if has_summary:
                kept = {"step": 9, "total_steps": 40, "loss": 2.5, "best_eval_loss": None, "size_bytes": LOG_BYTES}
                state["summary"] = {"finished_at": number + 60, **kept}
            (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
            (folder / "trainer_log.jsonl").write_text(line * (LOG_BYTES // len(line)), encoding="utf-8")
            (folder / ".lock").touch()
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-c", TIMED], cwd=place, env=environment, check=True)


if __name__ == "__main__":
    main()
