"""llama.cpp in a process of its own: it reads tokens with a .gguf file and says what it expects after each.

A library that was built for another processor ends its process; the job, which started this one, lives on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError


class Crashed(Exception):
    """llama.cpp ended its process by a signal, whose number this is."""


def speak(
    path: Path, texts: list[str], tokens: list[list[int]], recorder, adapter: Path | None = None
) -> tuple[list[list[int]], list[np.ndarray]]:
    """How llama.cpp cuts texts, and its logits, shape (T, V), for each list of T tokens.

    Raises:
        Crashed: it ended by a signal, as where it was built for another processor.
        UserError: it cannot load the file.
        StopRequested: somebody asked the run to stop.
    """
    prefix = f".{path.name}.speak-"
    for left in path.parent.glob(f"{escape(prefix)}*"):  # by a job that was killed; the path is this job's own
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as place:
        asked = {"path": str(path), "adapter": adapter and str(adapter), "texts": texts, "tokens": tokens}
        request = Path(place, "asked.json")
        request.write_text(json.dumps(asked), encoding="utf-8")
        with subprocess.Popen([sys.executable, "-m", __name__, place], env=_environment()) as program:
            while program.poll() is None:
                if recorder.is_stop_requested:
                    program.kill()
                time.sleep(0.05)
        recorder.check_stop()
        if program.returncode < 0:
            raise Crashed(-program.returncode)
        said = Path(place, "said.json")
        answer: dict[str, Any] = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else {}
        if "tokens" not in answer:
            detail = answer.get("error", f"code {program.returncode}")
            raise UserError("gguf.verify_failed", detail=f"llama.cpp cannot load it: {detail}")
        return answer["tokens"], [np.load(Path(place, f"{number}.npy")) for number in range(len(tokens))]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def main(place: Path) -> None:
    """Answer ``asked.json`` of a folder there. The cache holds float32: half precision would be the run's own error."""
    import llama_cpp

    asked = json.loads((place / "asked.json").read_text(encoding="utf-8"))
    context = -(-max(map(len, asked["tokens"])) // 64) * 64
    threads = os.cpu_count()
    _compute_plainly(llama_cpp.llama_cpp)
    try:
        model = llama_cpp.Llama(
            model_path=asked["path"], lora_path=asked["adapter"], n_ctx=context, n_batch=context, n_ubatch=context,
            n_gpu_layers=0, logits_all=True, n_threads=threads, n_threads_batch=threads, type_k=0, type_v=0,
            verbose=False,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        (place / "said.json").write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        return
    for number, tokens in enumerate(asked["tokens"]):
        model.reset()
        model.eval(tokens)
        np.save(place / f"{number}.npy", model.scores[: len(tokens)])
    cut = [model.tokenize(text.encode("utf-8"), add_bos=False, special=True) for text in asked["texts"]]
    (place / "said.json").write_text(json.dumps({"tokens": cut}), encoding="utf-8")
    model.close()


def _compute_plainly(library: Any) -> None:
    """Leave out kernels for repacked weights: AMX ends the process where a virtual machine does not let it be used.

    llama-cpp-python 0.3.36 has the setting in C only; this is a process of our own, so its default may be changed.
    """
    default = library.llama_model_default_params

    def plain():
        params = default()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = plain


if __name__ == "__main__":
    main(Path(sys.argv[1]))
