"""Real workers: one that is killed is told of too; and a run done again logs the very same losses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.options.jobs import TrainJob
from engine.runs.card import card
from engine.runs.folder import Folder
from engine.runs.progress import watch
from engine.runs.read import is_alive, read_log, read_state
from engine.runs.start import start
from engine.runs.stop import end_now

PROJECT = Path(__file__).resolve().parent.parent.parent
TELL = """
import os, sys
path = os.environ["LATHE_FOLDER"] + "/told"
with open(path, "a") as file:
    file.write(os.environ["LATHE_STATUS"] + " " + os.environ["LATHE_CAUSE"] + " " + os.environ["LATHE_LOSS"] + "\\n")
"""


@pytest.fixture
def options(workplace, tiny_model) -> dict:
    rows = [{"instruction": f"Say {n}", "output": f"number {n}"} for n in range(8)]
    (workplace / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (workplace / "tell.py").write_text(TELL, encoding="utf-8")
    return {
        "model_name_or_path": str(tiny_model), "dataset": "rows.json", "output_dir": "saves/t/lora/one",
        "num_train_epochs": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "logging_steps": 1,
        "plot_loss": False, "preprocessing_num_workers": 1, "on_finish": f"{sys.executable} tell.py",
    }  # fmt: skip


def told(folder: Folder, timeout_s: float = 60) -> str:
    deadline = time.monotonic() + timeout_s
    path = folder.path / "told"
    while not path.is_file() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline, read_log(folder)
        time.sleep(0.1)
    return path.read_text().strip()


def test_a_run_and_its_repetition_tell_their_ends_and_agree(options):
    folder = start(TrainJob.from_values(options))
    status, cause, loss = told(folder, 300).split(" ")
    assert (status, cause) == ("done", "") and float(loss) == watch(folder).loss
    done = subprocess.run(
        [sys.executable, str(PROJECT / "app.py"), "runs", "repeat", "one"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every logged loss is the same as in t/lora/one." in done.stdout
    (again,) = [each for each in Path("saves").rglob("RUN.md") if each.parent != folder.path]
    assert told(Folder(again.parent)).startswith("done ")


@pytest.mark.parametrize(("way", "status"), [("killed", "lost"), ("ended", "stopped"), ("broken", "failed")])
def test_every_other_end_is_told_too(options, way, status):
    wrong = {"lora_target": "no_such_module"} if way == "broken" else {}
    folder = start(TrainJob.from_values({**options, **wrong}))
    if way == "killed":
        while read_state(folder).pid is None:
            time.sleep(0.05)
        os.killpg(read_state(folder).pid, signal.SIGKILL)
    if way == "ended":
        while not folder.events.is_file():  # it has begun its work
            time.sleep(0.05)
        end_now(folder)
    assert told(folder, 200).split(" ")[0] == status
    assert not is_alive(folder) and read_state(folder).status == status
    assert folder.card.is_file() == (way != "killed"), "who is killed writes none; it is shown all the same"
    assert folder.name in card(folder)
