"""One run, killed at twenty moments from its first second to its last: in the end it is the run that was never killed.

Each life is started by ``engine.runs.start`` and ended by SIGKILL to its whole process group. So that twenty lives do
not import torch twenty times, most are forked from a process that has done so; one is started as usual.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.options.jobs import TrainJob
from engine.runs import start as starting
from engine.runs.checkpoints import damage, numbered
from engine.runs.curves import Curve
from engine.runs.folder import Folder
from engine.runs.progress import watch
from engine.runs.read import read_events, read_state
from engine.runs.resume import resumed_job
from engine.runs.start import PROJECT, start

pytestmark = pytest.mark.slow
TIMEOUT_S = 300
STEPS = 12
PRELOADED = """
import os, signal, socket, sys
import matplotlib.figure
import engine.work.train
from engine.work.__main__ import main
link = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    said, descriptors, _, _ = socket.recv_fds(link, 65536, 2)
    if not said:
        break
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(descriptors[0], 0)
        os.dup2(descriptors[1], 1)
        os.dup2(descriptors[1], 2)
        cwd, folder = said.decode().split("|")
        os.chdir(cwd)
        link.send(b"ready")
        sys.exit(main(folder, None))
    for descriptor in descriptors:
        os.close(descriptor)
"""


@pytest.fixture(scope="module")
def preloaded() -> Iterator[socket.socket]:
    """A process that has imported what a worker needs, and forks one whenever it is told a folder."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", PRELOADED, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=environment)
    theirs.close()
    yield ours
    ours.close()
    process.wait(timeout=30)


@pytest.fixture
def forked(preloaded, monkeypatch) -> Callable[[bool], None]:
    """Whether the next worker is forked, or started as usual."""
    usual = starting._spawn

    def spawn(job, folder, lock_descriptor, owner_pid, found) -> None:
        with folder.log.open("ab") as log:
            said = f"{os.getcwd()}|{folder.path}".encode()
            socket.send_fds(preloaded, [said], [lock_descriptor, log.fileno()])
            preloaded.recv(16)

    return lambda is_forked: monkeypatch.setattr(starting, "_spawn", spawn if is_forked else usual)


@pytest.fixture
def options(workplace, tiny_model) -> dict:
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(22)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return {
        "model_name_or_path": str(tiny_model), "dataset": "rows.json", "num_train_epochs": 2, "lora_dropout": 0.1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "logging_steps": 2,
        "save_steps": 1, "save_total_limit": 1, "preprocessing_num_workers": 1,
    }  # fmt: skip


def wait(folder: Folder, until: Callable[[list[dict]], bool], offset: int = 0) -> None:
    """Return when the events from an offset on are as expected, or the run has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while not ((events := read_events(folder, offset)[0]) and until(events)) and not read_state(folder).has_ended:
        assert time.monotonic() < deadline, folder.log.read_text()[-3000:]
        time.sleep(0.004)


def finish(folder: Folder) -> None:
    wait(folder, lambda events: False)
    assert read_state(folder).status == "done", folder.log.read_text()[-3000:]


def kill(folder: Folder) -> None:
    """The worker's group, as soon as it has one; returns when all of it is gone."""
    deadline = time.monotonic() + TIMEOUT_S
    while (pid := read_state(folder).pid) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    while not read_state(folder).has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved_step(events: list[dict]) -> int:
    return max([int(event["saved"].rsplit("-", 1)[1]) for event in events if "saved" in event], default=0)


def weights(folder: Folder) -> bytes:
    return (folder.path / "adapter_model.safetensors").read_bytes()


def test_twenty_kills_lose_nothing(options, forked):
    chance = random.Random(20)
    forked(True)
    begun = time.monotonic()
    whole = start(TrainJob.from_values({**options, "output_dir": "saves/whole"}))
    wait(whole, lambda events: any("current_steps" in event for event in events))
    until_first_step = time.monotonic() - begun
    first_step = time.monotonic()
    wait(whole, lambda events: saved_step(events) >= STEPS)
    one_step = (time.monotonic() - first_step) / STEPS
    finish(whole)

    folder, offset = start(TrainJob.from_values({**options, "output_dir": "saves/killed"})), 0
    moments = [("begin", chance.uniform(0, until_first_step)) for _ in range(4)]
    moments += [(step, chance.uniform(0, 2 * one_step)) for step in sorted(chance.choices(range(STEPS - 2), k=13))]
    moments += [("end", chance.uniform(0, 0.2)) for _ in range(3)]
    for number, (when, delay) in enumerate(moments):
        forked(True)
        while (offset := killed_at(folder, offset, when, delay)) is None:
            # The run was done by then: it is one that lost nothing, and the moment comes sooner in another.
            equals(folder, whole)
            delay /= 2
            folder, offset = start(TrainJob.from_values({**options, "output_dir": f"saves/killed_{number}"})), 0
        forked(number != 9)
        start(resumed_job(folder))
    finish(folder)
    equals(folder, whole)


def killed_at(folder: Folder, offset: int, when: str | int, delay: float) -> int | None:
    """Kill a run at a moment of its life; returns the offset behind its events, or None: it was done before."""
    if when == "end":
        wait(folder, lambda events: events[-1].get("phase") == "saving", offset)
    elif when != "begin":
        wait(folder, lambda events: "current_steps" in events[-1], offset)
        wait(folder, lambda events: saved_step(events) >= when)
    furthest = {"begin": 0, "end": STEPS}.get(when, when if isinstance(when, int) else 0) + 1
    end = time.monotonic() + delay  # on a machine whose speed changes it would be long over by then
    while time.monotonic() < end and saved_step(read_events(folder, offset)[0]) < furthest:
        time.sleep(0.004)
    kill(folder)
    events, behind = read_events(folder)
    if read_state(folder).status == "done":
        return None
    assert read_state(folder).status == "lost"
    intact = [path for path in numbered(folder.path) if damage(path) is None]
    last = int(intact[-1].name.rsplit("-", 1)[1]) if intact else 0
    assert last >= saved_step(events), f"after {when} + {delay:.3f} s a checkpoint that was saved is gone"
    return behind


def learned(folder: Folder) -> dict[str, Curve]:
    """The curves, but for those that tell of the machine."""
    return {name: curve for name, curve in watch(folder).curves.items() if name not in ("throughput", "memory_bytes")}


def equals(folder: Folder, whole: Folder) -> None:
    """A run that was killed is the one that was not."""
    assert weights(folder) == weights(whole)
    assert learned(folder) == learned(whole), "a step is missing, there twice, or has another loss"
    loss = [json.loads(each.results.read_text())["train_loss"] for each in (folder, whole)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-9)
    left = {path.name for path in folder.path.iterdir()} - {path.name for path in whole.path.iterdir()}
    assert not left, "litter of killed workers"
