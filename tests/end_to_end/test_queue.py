"""Five runs on one device, the third cannot learn; keeper and server are killed in between. Order and runs survive.

Everything is done by ``python app.py``, with real workers; what is asked of the folders is asked by this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.errors import UserError
from engine.runs.folder import Folder
from engine.runs.queue import waiting
from engine.runs.read import is_alive, list_runs, read_job, read_state
from tests.served import free_port, wait_for

PROJECT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 400
pytestmark = pytest.mark.slow


@pytest.fixture
def tidy(workplace) -> Iterator[None]:
    """At the end nothing that was started here lives on."""
    yield
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and Path(process.cwd()) == workplace.resolve():
                process.kill()
        except (psutil.Error, OSError):
            continue


def lathe(*words: str) -> str:
    command = [sys.executable, str(PROJECT / "app.py"), *words]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not until():
        said = [(folder.name, state.status) for folder, state in list_runs()]
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def keeper(workplace: Path) -> int | None:
    """The keeper of this folder, told by its command and where it runs."""
    for process in psutil.process_iter():
        try:
            if "engine.runs.keeper" in process.cmdline() and Path(process.cwd()) == workplace.resolve():
                return process.pid
        except psutil.Error:
            continue
    return None


def serve() -> subprocess.Popen:
    """``python app.py webui``, once it answers."""
    port = free_port()
    with Path("server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, str(PROJECT / "app.py"), "webui", "--port", str(port)], stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    wait_for(f"http://127.0.0.1:{port}/", server, Path("server.log"))
    return server


def test_five_runs_with_a_failing_one_in_the_middle_across_a_restart(workplace, tiny_model, tidy):
    rows = [{"instruction": f"Say {n}", "output": f"number {n}"} for n in range(8)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options = [
        f"model_name_or_path={tiny_model}", "dataset=rows.json", "max_steps=2", "per_device_train_batch_size=1",
        "gradient_accumulation_steps=1", "logging_steps=1", "preprocessing_num_workers=1",
    ]  # fmt: skip
    lathe("runs", "queue", "add", *options, "--set", "seed=1,2")
    lathe("runs", "queue", "add", *options, "seed=3", "lora_target=no_such_module")
    lathe("runs", "queue", "add", *options, "seed=4")
    command = [sys.executable, str(PROJECT / "app.py"), "train", *options, "seed=5"]
    last = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait(lambda: len(list_runs()) == 5)
    folders: dict[int, Folder] = {read_job(folder).seed: folder for folder, _ in list_runs()}
    assert sorted(folders) == [1, 2, 3, 4, 5]

    # What minds the queue is killed, and so is whoever waits in a terminal: the line stands, and what runs goes on.
    os.kill(keeper(workplace), signal.SIGKILL)
    for said in last.stdout:
        if "number" in said:
            break
    else:
        pytest.fail("it has ended, and did not say which number it has in the line")
    last.kill()
    last.communicate()
    wait(lambda: keeper(workplace) is None)
    seeds = [read_job(each.folder).seed for each in waiting()]
    assert seeds == [1, 2, 3, 4, 5][-len(seeds) :] and {3, 4, 5} <= set(seeds)
    wait(lambda: not is_alive(folders[min(seeds) - 1]))
    assert read_state(folders[1]).status == "done"
    assert [read_job(each.folder).seed for each in waiting()] == seeds, "without a keeper nothing is started"

    # The server sees to it when it starts; killed too, it takes nothing with it.
    server = serve()
    wait(lambda: keeper(workplace))
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    wait(lambda: read_state(folders[3]).has_ended)
    if (minding := keeper(workplace)) is not None:
        os.kill(minding, signal.SIGKILL)
    lathe("runs", "list")

    wait(lambda: all(read_state(folder).has_ended for folder in folders.values()))
    states = {seed: read_state(folder) for seed, folder in sorted(folders.items())}
    logs = "\n".join(folder.log.read_text()[-2000:] for folder in folders.values())
    assert {seed: state.status for seed, state in states.items()} == {
        1: "done", 2: "done", 3: "failed", 4: "done", 5: "done",
    }, logs  # fmt: skip
    assert "no_such_module" in UserError(states[3].error["key"], **states[3].error["facts"]).text()
    for before, after in zip(range(1, 5), range(2, 6), strict=True):
        assert states[before].finished_at <= states[after].started_at, f"run {after} did not wait for run {before}"
    assert waiting() == [] and not any(folder.queued.exists() for folder in folders.values())
    wait(lambda: keeper(workplace) is None)


def test_a_training_in_the_terminal_waits_its_turn(workplace, tiny_model, tidy):
    rows = [{"instruction": f"Say {n}", "output": f"number {n}"} for n in range(8)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options = [f"model_name_or_path={tiny_model}", "dataset=rows.json", "max_steps=1", "preprocessing_num_workers=1"]
    lathe("runs", "queue", "add", *options, "output_dir=saves/first")
    said = lathe("train", *options, "output_dir=saves/second")
    assert "waits in the queue as number 1" in said and "Done: saves/second" in said
    states = [read_state(Folder(Path("saves", name))) for name in ("first", "second")]
    assert [state.status for state in states] == ["done", "done"]
    assert states[0].finished_at <= states[1].started_at
