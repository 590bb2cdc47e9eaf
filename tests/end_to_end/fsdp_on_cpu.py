"""One rank of a training in shards on the CPU, started by torchrun: ``fsdp_on_cpu.py FOLDER``.

torch's FSDP2 works on the CPU with gloo, but accelerate 1.15 asks for it on GPUs only, and does DDP elsewhere without
a word. Here it is told that these are GPUs; all else is the program's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate.state import DistributedType, PartialState

from engine.runs.folder import Folder
from engine.runs.read import read_job
from engine.work import ranks, train

PartialState._prepare_backend = lambda self, cpu, dp, backend: ("gloo", DistributedType.MULTI_GPU)

if __name__ == "__main__":
    folder = Folder(Path(sys.argv[1]))
    train.run(read_job(folder), ranks.Ranks.here().recorder(folder))
