"""A merge killed with SIGKILL at moments from its first file to after its rename: nothing, or all of it and proven.

One process has imported what a merge needs, and forks for each moment: an audit hook kills the merge, or the process
beside it that writes the weights, at its n-th touch of the target. So every moment is hit just once, and the same ones
always.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
TOUCHES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")
FORKS = f"""
import fcntl, json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
import engine.work.export, engine.work.load, peft, transformers.models.llama.modeling_llama
from engine.options.jobs import ExportJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
place = Path(sys.argv[1])
out, temporary = place / "out", place / ".out.lathe.tmp"

def listed(folder):
    return sorted([path.name, path.stat().st_size] for path in folder.iterdir()) if folder.is_dir() else None

def is_ours(each):
    return isinstance(each, (str, os.PathLike)) and any(str(path) in str(each) for path in (out, temporary))

def merge(dies=None, at=None):
    # dies: "worker" or "beside"; its status, once both processes are gone
    (place / "touches").unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        worker, seen = os.getpid(), []
        def hook(event, given):
            if event not in {TOUCHES!r} or not any(map(is_ours, given)):
                return
            here = "worker" if os.getpid() == worker else "beside"
            seen.append(here)
            with (place / "touches").open("a") as file:
                file.write(f"{{here}} {{event}}\\n")
            if here == dies and seen.count(here) == at:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        values = {{"model_name_or_path": sys.argv[2], "adapter_name_or_path": str(place / "adapter"),
                  "export_dir": str(out), "export_size": 2e-5}}
        try:
            engine.work.export.run(ExportJob.from_values(values), Recorder(Folder(place / "run")))
        except MemoryError:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if temporary.exists():
        lock = os.open(temporary, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other process lets go of it when it ends
        os.close(lock)
    return status

def moments(count):
    return {{1, 2, 3, *range(5, count, max(1, count // 14))}}

assert merge() == 0
whole = listed(out)
touches = [line.split() for line in (place / "touches").read_text().splitlines()]
worker, beside = ([event for who, event in touches if who == each] for each in ("worker", "beside"))
renamed = max(number for number, event in enumerate(worker, start=1) if event == "os.rename")
shutil.rmtree(out)
tried = [("worker", each) for each in sorted(moments(len(worker)) | {{renamed, renamed + 1}})]
tried += [("beside", each) for each in sorted(moments(len(beside)))]
found = []
for dies, at in tried:
    found.append([dies, at, merge(dies, at), listed(out), temporary.exists()])
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)  # else the next one touches it more often
merge("worker", renamed)
assert temporary.exists()
last = merge()
print("FOUND", json.dumps([whole, renamed, found, last, listed(out), temporary.exists()]))
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_no_folder_or_a_whole_one(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "adapter").mkdir()
    made = (
        "import sys; from peft import LoraConfig, get_peft_model; from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "config = LoraConfig(r=2, target_modules=['q_proj', 'up_proj'], init_lora_weights=False)\n"
        "get_peft_model(model, config).save_pretrained(sys.argv[2])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", made, tiny_model, tmp_path / "adapter"], check=True, env=environment)
    command = [sys.executable, "-c", FORKS, str(tmp_path), str(tiny_model)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    whole, renamed, found, last, at_last, is_left = json.loads(answer.stdout.rsplit("FOUND", 1)[1])
    assert {"config.json", "README.md", "model.safetensors.index.json"} <= {name for name, _ in whole}
    killed = {who: [each for each in found if each[0] == who] for who in ("worker", "beside")}
    assert all(len(each) >= 14 for each in killed.values())
    for _, moment, status, there, _ in killed["worker"]:
        assert status == 9, "each was killed, none came to its end"
        assert there in (None, whole), f"half a folder after touch {moment}"
        assert (there is None) == (moment <= renamed), "before its rename it is not there, after it it is"
    for _, _, status, there, is_left in killed["beside"]:
        assert (status >> 8, there, is_left) == (1, None, False), "the merge fails, and leaves nothing"
    assert any(left for *_, left in killed["worker"]), "what a killed merge leaves is its temporary folder"
    assert (last, at_last, is_left) == (0, whole, False), "the next attempt removes it, and ends as if nothing had been"
