"""llama.cpp's own converter, from a checkout that the user names, for families of models that ours does not declare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.errors import UserError

SCRIPT = "convert_hf_to_gguf.py"
TYPES = ("f32", "f16", "bf16", "q8_0")
"""What it can write; llama.cpp makes the others from bf16."""


def convert_by_checkout(checkout: Path, model: Path, target: Path, outtype: str, recorder) -> None:
    """Run the converter as a program of its own; what it says goes to the log.

    Raises:
        UserError: there is no converter, or it failed; with its last line.
        StopRequested: somebody asked the run to stop.
    """
    script = checkout.expanduser() / SCRIPT
    if not script.is_file():
        raise UserError("gguf.checkout_missing", path=checkout, script=SCRIPT)
    command = [sys.executable, str(script.resolve()), str(model), "--outfile", str(target), "--outtype", outtype]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        last = ""
        assert program.stdout is not None
        for line in program.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
            if recorder.is_stop_requested:
                program.terminate()
    recorder.check_stop()
    if program.returncode != 0:
        raise UserError("gguf.checkout_failed", path=script, code=program.returncode, detail=last)
