"""Memory that really runs out, on the CPU: the kernel refuses a worker more, the worker says so, and a retry fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.options.jobs import TrainJob
from engine.runs import start as starting
from engine.runs.folder import Folder
from engine.runs.progress import watch
from engine.runs.read import read_events, read_state
from engine.runs.retry import ran_out_of_memory, retried_job
from engine.runs.start import PROJECT, start

pytestmark = pytest.mark.slow
WORKER = """
import resource, sys
import psutil, torch
import engine.work.train
from engine.work.__main__ import main
from engine.work.supervised import SupervisedTrainer

usual = SupervisedTrainer.loss_of

def loss_of(self, model, batch, totals):
    # As a model would whose activations take 250 MB a row, from the fourth step on.
    held = torch.empty((int(batch["owner"].max()) + 1) * 250_000_000 * (self.state.global_step >= 3), dtype=torch.uint8)
    return usual(self, model, batch, totals)

def limit_memory(self, *given, **named):
    limit = psutil.Process().memory_info().vms + 1_500_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return usual_train(self, *given, **named)

SupervisedTrainer.loss_of = loss_of
usual_train, SupervisedTrainer.train = SupervisedTrainer.train, limit_memory
sys.exit(main(sys.argv[1], None))
"""


@pytest.fixture
def in_little_memory(monkeypatch):
    def spawn(job, folder, lock_descriptor, owner_pid, found) -> None:
        # On one core, so that what is asked for is a whole micro-batch's, and not that of the part each core computes.
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        with folder.log.open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(folder.path)], stdin=lock_descriptor, stdout=log, stderr=log,
                env=environment, start_new_session=True, pass_fds=(lock_descriptor,),
            )  # fmt: skip

    monkeypatch.setattr(starting, "_spawn", spawn)


def ended(folder: Folder) -> Folder:
    deadline = time.monotonic() + 240
    while not read_state(folder).has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return folder


def losses(folder: Folder) -> dict[int, float]:
    return dict(watch(folder).curves["loss"])


def test_a_retry_with_half_the_micro_batch_learns_the_same(workplace, tiny_model, in_little_memory, monkeypatch):
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(40)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options = {
        "model_name_or_path": str(tiny_model), "dataset": "rows.json", "num_train_epochs": 1, "learning_rate": 1e-3,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "logging_steps": 1, "save_steps": 1,
        "preprocessing_num_workers": 1,
    }  # fmt: skip
    folder = ended(start(TrainJob.from_values({**options, "output_dir": "saves/short"})))
    state = read_state(folder)
    assert (state.status, state.error["key"]) == ("failed", "out_of_memory"), folder.log.read_text()[-3000:]
    facts = state.error["facts"]
    assert facts["asked"] == "2.0 GB" and facts["step"] == 3
    assert facts["free"].endswith(("GB", "MB")) and "DefaultCPUAllocator" in facts["detail"]
    assert ran_out_of_memory(folder)

    job, changes = retried_job(folder)
    assert changes == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert read_state(ended(start(job))).status == "done", folder.log.read_text()[-3000:]
    assert [event["resumed_at"] for event in read_events(folder)[0] if "resumed_at" in event] == [3]

    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    whole = ended(start(TrainJob.from_values({**options, "output_dir": "saves/whole"})))
    assert read_state(whole).status == "done"
    assert list(losses(whole)) == [1, 2, 3, 4, 5]
    assert losses(folder) == pytest.approx(losses(whole), rel=1e-4)
