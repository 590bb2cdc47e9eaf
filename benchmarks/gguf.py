"""Time and peak memory of converting a model to f16 .gguf: ours, ours with the whole proof, and llama.cpp's converter.

    python benchmarks/gguf.py [MODEL] [--reference CHECKOUT] [--outtype f16]

Each in a process of its own, after one run to warm the disk's cache; the shortest of three counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OURS = """
import sys
from pathlib import Path
from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
model, out, outtype, what = sys.argv[1:]
folder = Folder(Path(out).parent / "run"); folder.path.mkdir(exist_ok=True)
job = GgufJob(model_name_or_path=model, outfile=out, outtype=outtype)
if what == "whole":
    from engine.work.gguf.job import run
    run(job, Recorder(folder))
else:
    from engine.work.imports import lean_imports
    with lean_imports():
        from engine.work.gguf import making, material
    making.make(material.gather(job, Recorder(folder)), {outtype: Path(out)}, Recorder(folder))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--outtype", default="f16")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place, "m.gguf"))
        ours = [sys.executable, "-c", OURS, asked.model, out, asked.outtype]
        commands = {"converted": [*ours, "convert"], "converted and proven": [*ours, "whole"]}
        if asked.reference:
            script = str(asked.reference / "convert_hf_to_gguf.py")
            commands["reference"] = [sys.executable, script, asked.model, "--outfile", out, "--outtype", asked.outtype]
        for name, command in commands.items():
            figures = [measured(command) for _ in range(4)][1:]
            print(f"{name}: {min(each[0] for each in figures):.1f} s, {min(each[1] for each in figures):.2f} GB")


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident size in GB."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as program:
        assert program.stderr is not None
        said = program.stderr.read()
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode:
        raise SystemExit(said.decode(errors="replace")[-2000:])
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


if __name__ == "__main__":
    main()
