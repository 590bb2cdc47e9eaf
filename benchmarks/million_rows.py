"""How fast rows are encoded, and how much memory that takes, when there are very many of them.

    python benchmarks/million_rows.py [--rows 10000 100000 1000000] [--processes N]

Made-up alpaca rows go into a temporary folder, and each number of rows is encoded by a Python of its own, the way
training does it, with the tokenizer of the bundled model. The memory is the largest that the encoding process had at
any moment (VmHWM), and beside it that of all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

WORDS = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information back
parent face others level office door health person art war history party result change morning reason research
""".split()  # noqa: SIM905


def write_rows(path: Path, count: int) -> None:
    """Rows of the lengths that instruction data have: a short question, an answer of 20 to 180 words."""
    chosen = random.Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {
                "instruction": f"Write about {' '.join(chosen.choices(WORDS, k=chosen.randint(4, 16)))}.",
                "input": " ".join(chosen.choices(WORDS, k=30)) if number % 4 == 0 else "",
                "output": " ".join(chosen.choices(WORDS, k=chosen.randint(20, 180))) + ".",
            }
            file.write(json.dumps(row) + "\n")


def encode(path: Path, folder: Path, processes: int | None) -> dict[str, float]:
    """Prepare a job's rows in this process, and measure it."""
    from transformers import AutoTokenizer

    from engine.catalog.models import BUNDLED
    from engine.options.jobs import TrainJob
    from engine.runs.folder import Folder
    from engine.runs.record import Recorder
    from engine.work.bundled import make_bundled
    from engine.work.dataset import prepare

    tokenizer = AutoTokenizer.from_pretrained(make_bundled(PROJECT / BUNDLED.path))
    job = TrainJob.from_values({"dataset": str(path), "preprocessing_num_workers": processes, "cutoff_len": 2048})
    before = peak_bytes(psutil.Process())
    peak = Peak()
    started = time.perf_counter()
    with peak:
        prepared = prepare(job, tokenizer, Recorder(Folder(folder)))
    seconds = time.perf_counter() - started
    arrow = sum(each.stat().st_size for each in folder.rglob("*.arrow"))
    return {
        "rows": len(prepared.train), "tokens": prepared.train.counts.tokens, "seconds": seconds, "before": before,
        "peak": peak_bytes(psutil.Process()), "all": peak.bytes, "arrow": arrow,
    }  # fmt: skip


class Peak:
    """The most memory that this process and its children held together, looked at ten times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, total)


def peak_bytes(process: psutil.Process) -> int:
    """VmHWM: the largest resident memory a process ever had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return process.memory_info().rss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--processes", type=int, help="preprocessing_num_workers; left out: Lathe chooses")
    parser.add_argument("--encode", nargs=2, help=argparse.SUPPRESS)  # file and folder: one measurement
    given = parser.parse_args()
    if given.encode:
        path, folder = map(Path, given.encode)
        print("MEASURED", json.dumps(encode(path, folder, given.processes)))
        return
    heads = ("rows", "file MB", "seconds", "rows/s", "tokens/s", "start MB", "peak MB", "all MB", "Arrow MB")
    print(" ".join(f"{head:>9}" for head in heads))
    for count in given.rows:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "rows.jsonl"
            write_rows(path, count)
            size = path.stat().st_size
            found = measured(path, Path(place), given.processes)
        million = [size, found["before"], found["peak"], found["all"], found["arrow"]]
        file_mb, before, peak, together, arrow = (f"{value / 1e6:.0f}" for value in million)
        seconds = found["seconds"]
        cells = (found["rows"], file_mb, f"{seconds:.1f}", f"{count / seconds:.0f}",
                 f"{found['tokens'] / seconds:.0f}", before, peak, together, arrow)  # fmt: skip
        print(" ".join(f"{cell:>9}" for cell in cells), flush=True)


def measured(path: Path, place: Path, processes: int | None) -> dict[str, float]:
    folder = place / "run"
    folder.mkdir()
    command = [sys.executable, __file__, "--encode", str(path), str(folder)]
    command += ["--processes", str(processes)] if processes else []
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ})
    return json.loads(answer.stdout.split("MEASURED", 1)[1])


if __name__ == "__main__":
    main()
