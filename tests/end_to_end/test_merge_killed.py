"""A merge killed with SIGKILL at moments from its first file to after its rename: nothing, or all of it and proven.

One process has imported what a merge needs, and forks for each moment: an audit hook of the fork kills it at its n-th
touch of the target. So every moment is hit just once and always the same.
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
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
import engine.work.export, engine.work.load, peft, transformers.models.llama.modeling_llama
from engine.options.jobs import ExportJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
place = Path(sys.argv[1])
out, temporary = place / "out", place / "out.tmp"

def listed(folder):
    return sorted([path.name, path.stat().st_size] for path in folder.iterdir()) if folder.is_dir() else None

def is_ours(each):
    return isinstance(each, (str, os.PathLike)) and str(out) in str(each)

def merge(dies_at, seen=[0, []]):
    def hook(event, given):
        if event in {TOUCHES!r} and any(map(is_ours, given)):
            seen[0] += 1
            if event == "os.rename":
                seen[1].append(seen[0])
            if seen[0] == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
    if (child := os.fork()) == 0:
        sys.addaudithook(hook)
        values = {{"model_name_or_path": sys.argv[2], "adapter_name_or_path": str(place / "adapter"),
                  "export_dir": str(out), "export_size": 2e-5}}
        engine.work.export.run(ExportJob.from_values(values), Recorder(Folder(place / "run")))
        (place / "seen.json").write_text(json.dumps(seen))
        os._exit(0)
    return os.waitpid(child, 0)[1]

assert merge(None) == 0
whole = listed(out)
count, renames = json.loads((place / "seen.json").read_text())
shutil.rmtree(out)
moments = sorted({{1, 2, 3, *range(5, count, max(1, count // 14)), renames[-1], renames[-1] + 1}})
found = []
for moment in moments:
    status = merge(moment)
    found.append([moment, status, listed(out), temporary.exists()])
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)  # else the next one touches it more often
merge(renames[-1])
assert temporary.exists()
last = merge(None)
print("FOUND", json.dumps([whole, count, renames, found, last, listed(out), temporary.exists()]))
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
    whole, count, renames, found, last, at_last, is_left = json.loads(answer.stdout.rsplit("FOUND", 1)[1])
    names = [name for name, _ in whole]
    assert {"config.json", "README.md", "model.safetensors.index.json"} <= set(names)
    assert len(found) >= 14 and all(status == 9 for _, status, _, _ in found), "each was killed, none came to its end"
    for moment, _, there, _ in found:
        assert there in (None, whole), f"half a folder after touch {moment} of {count}"
        assert (there is None) == (moment <= renames[-1]), "before its rename it is not there, after it it is"
    assert any(left for *_, left in found), "what a killed merge leaves is its temporary folder"
    assert (last, at_last, is_left) == (0, whole, False), "the next attempt removes it, and ends as if nothing had been"
