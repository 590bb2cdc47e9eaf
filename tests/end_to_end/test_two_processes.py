"""One run of two processes on the CPU: it learns what one process learns, and stops, resumes and ends as one.

The reference is always a run of one process with the same effective batch. Two processes with 2 examples and 2
accumulated micro-batches each do the same steps as one with 2 examples and 4.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from safetensors.torch import load_file

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.read import is_alive, read_state
from engine.runs.record import update_state, write_job
from engine.runs.start import start
from engine.runs.stop import ask_to_stop, end_now
from engine.work.torchrun import free_port, why_it_failed

PROJECT = Path(__file__).resolve().parent.parent.parent
APP = [sys.executable, str(PROJECT / "app.py")]
STEPS = 24
ONE = {"gradient_accumulation_steps": 4}
TWO = {"gradient_accumulation_steps": 2, "nproc_per_node": 2}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """26 rows: an epoch is 3 steps, the last of them with fewer examples than there are micro-batches."""
    folder = tmp_path_factory.mktemp("two")
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(22)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def options(tiny_model, workplace):
    return {
        "model_name_or_path": str(tiny_model), "dataset": "rows.json", "max_steps": STEPS, "learning_rate": 1e-2,
        "per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 10, "val_size": 3, "eval_strategy": "steps",
        "eval_steps": 12, "per_device_eval_batch_size": 2, "plot_loss": False,
        "fp16": True,  # on any CPU that is float32: gradients in bfloat16 are rounded otherwise by other micro-batches
    }  # fmt: skip


@pytest.fixture(scope="module")
def one(options):
    return trained(options, "one", **ONE)


@pytest.fixture(scope="module")
def two(options):
    return trained(options, "two", **TWO)


def trained(options, name, launcher=(), environment=None, **changes) -> Path:
    """The folder of a run that was started in the terminal and has ended well."""
    folder = Path("saves", name)
    values = {**options, "output_dir": str(folder), **changes}
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    command = [*(launcher or APP[:1]), APP[1], "train", *flags]
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    log = Folder(folder).log
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    return folder


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]


def logged(folder: Path, *names: str) -> dict[int, list[float]]:
    """Step → values, of every line that has the first name."""
    found = [line for line in lines_of(folder) if names[0] in line]
    return {line["current_steps"]: [line[name] for name in names] for line in found}


def assert_same(found: Path, expected: Path, after: int = 0, weights: str = "adapter_model.safetensors") -> None:
    """The same losses, gradients, counted tokens and final weights."""
    names = ("loss", "grad_norm", "total_tokens")
    ours, theirs = logged(found, *names), logged(expected, *names)
    theirs = {step: values for step, values in theirs.items() if step > after}
    assert list(ours) == list(theirs)
    for step, (loss, grad_norm, tokens) in theirs.items():  # a norm of millions of numbers depends on their order
        assert ours[step] == [
            pytest.approx(loss, abs=TOLERANCE), pytest.approx(grad_norm, rel=2e-4), tokens,
        ], step  # fmt: skip
    a, b = load_file(found / weights), load_file(expected / weights)
    assert a.keys() == b.keys()
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 10 * TOLERANCE
    assert max(weight.abs().max().item() for weight in a.values()) > 0.01


def test_two_processes_learn_what_one_does(one, two):
    assert_same(two, one)
    assert logged(two, "eval_loss") == {
        step: pytest.approx(values, abs=TOLERANCE) for step, values in logged(one, "eval_loss").items()
    }
    assert len(logged(two, "eval_loss")) >= 2


def test_one_process_writes_the_folder(one, two):
    """The same files as of one process, but for each rank's random state; every event once."""
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in two.iterdir()} == names
    kept = {path.name for path in (one / "checkpoint-20").iterdir()} - {"rng_state.pth"}
    assert {path.name for path in (two / "checkpoint-20").iterdir()} == kept | {"rng_state_0.pth", "rng_state_1.pth"}
    told = [[line["phase"] for line in lines_of(run) if "phase" in line] for run in (one, two)]
    phases, both = ([name for name, _ in groupby(each)] for each in told)  # two have half as many batches each
    assert both == phases
    assert wait_for_end(Folder(two)) == "done"


@pytest.mark.parametrize(("before", "after"), [("two", ONE), ("one", TWO)], ids=["2-to-1", "1-to-2"])
def test_a_checkpoint_goes_on_with_another_number_of_processes(options, request, one, before, after):
    checkpoint = request.getfixturevalue(before) / "checkpoint-20"
    resumed = trained(options, f"from-{before}", resume_from_checkpoint=str(checkpoint), **after)
    assert_same(resumed, one, after=20)


@pytest.fixture(autouse=True)
def no_run_outlives_its_test():
    yield
    for path in Path("saves").glob("*/state.json"):
        if is_alive(Folder(path.parent)):
            end_now(Folder(path.parent))


def begun(options, name, **changes) -> Folder:
    """A run that has logged its first loss."""
    values = {**options, "output_dir": f"saves/{name}", "max_steps": 2000, **TWO, **changes}
    folder = start(TrainJob.from_values(values))
    deadline = time.monotonic() + 120
    while not (folder.events.exists() and logged(folder.path, "loss")):
        assert is_alive(folder) and time.monotonic() < deadline, folder.log.read_text()
        time.sleep(0.05)
    return folder


def ranks_of(folder: Folder) -> list[psutil.Process]:
    """The two processes that train, in the order of their ranks."""
    found = [p for p in psutil.Process(read_state(folder).pid).children() if "engine.work" in p.cmdline()]
    return sorted(found, key=lambda process: int(process.environ()["RANK"]))


def wait_for_end(folder: Folder) -> str:
    deadline = time.monotonic() + 120
    while not read_state(folder).has_ended or is_alive(folder):
        assert time.monotonic() < deadline, folder.log.read_text()
        time.sleep(0.05)
    return read_state(folder).status


def test_all_ranks_stop_at_the_same_step_and_go_on_from_there(options):
    folder = begun(options, "stopped", max_steps=400)
    ranks = ranks_of(folder)
    assert len(ranks) == 2
    ask_to_stop(folder)
    assert wait_for_end(folder) == "stopped"
    assert not any(psutil.pid_exists(rank.pid) for rank in ranks)
    stopped_at = max(logged(folder.path, "loss"))
    assert stopped_at < 400 and folder.checkpoints()[-1].name == f"checkpoint-{stopped_at}"
    changes = {"max_steps": 400, "resume_from_checkpoint": str(folder.checkpoints()[-1])}
    resumed = begun(options, "stopped", **changes)
    assert min(step for step in logged(resumed.path, "loss")) == 1  # the same log goes on
    wait_until_step(resumed, stopped_at + 3)
    end_now(resumed)
    whole = begun(options, "whole", max_steps=400, nproc_per_node=1, gradient_accumulation_steps=4)
    wait_until_step(whole, stopped_at + 3)
    end_now(whole)
    found, expected = logged(resumed.path, "loss"), logged(whole.path, "loss")
    for step in range(1, stopped_at + 4):
        assert found[step] == pytest.approx(expected[step], abs=TOLERANCE), step


def wait_until_step(folder: Folder, step: int) -> None:
    deadline = time.monotonic() + 120
    while max(logged(folder.path, "loss"), default=0) < step:
        assert is_alive(folder) and time.monotonic() < deadline, folder.log.read_text()
        time.sleep(0.05)


def test_ending_a_run_ends_all_its_processes(options):
    folder = begun(options, "ended")
    ranks = ranks_of(folder)
    end_now(folder)
    assert not is_alive(folder) and not any(rank.is_running() for rank in ranks)
    assert read_state(folder).status == "stopped"


def test_no_rank_outlives_the_one_that_started_it_and_the_lock_is_held_by_the_last(options):
    folder = begun(options, "orphaned")
    pid, ranks = read_state(folder).pid, ranks_of(folder)
    ranks[1].suspend()  # it cannot end of itself now
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert is_alive(folder), "a rank lives, and so does the run"
    ranks[1].resume()
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert wait_for_end(folder) == "lost"


def test_a_rank_that_is_killed_ends_the_run_with_that_cause(options):
    folder = begun(options, "killed")
    ranks_of(folder)[1].kill()
    assert wait_for_end(folder) == "failed"
    error = read_state(folder).error
    assert error["key"] == "rank_killed" and error["facts"]["rank"] == "1" and error["facts"]["signal"] == "SIGKILL"


@pytest.mark.parametrize(
    ("ended", "rank", "name"),
    [
        ({0: (signal.SIGTERM, 100), 1: (signal.SIGKILL, 100)}, 1, "SIGKILL"),  # torchrun ended the other at once
        ({0: (signal.SIGTERM, 100), 1: (signal.SIGSEGV, 101)}, 1, "SIGSEGV"),
        ({0: (signal.SIGKILL, 103), 1: (signal.SIGKILL, 100)}, 1, "SIGKILL"),  # it did not leave when told to
        ({0: (signal.SIGTERM, 100), 1: (signal.SIGTERM, 100)}, 0, "SIGTERM"),
    ],
)
def test_the_rank_that_is_named_is_not_one_that_was_ended_for_another(ended, rank, name):
    failures = {
        each: SimpleNamespace(exitcode=-number, timestamp=at, local_rank=each) for each, (number, at) in ended.items()
    }
    error = why_it_failed({}, failures, 2)
    assert (error.key, error.facts["rank"], error.facts["signal"]) == ("rank_killed", rank, name)


def test_a_rank_that_fails_ends_the_run_with_its_error(options, workplace, monkeypatch):
    """Rank 1 alone cannot import a part of the program; rank 0 waits for it, and is not what failed."""
    (workplace / "odd").mkdir()
    code = "import os, sys\nif os.environ.get('RANK') == '1':\n    sys.modules['engine.work.reporter'] = None\n"
    (workplace / "odd" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(workplace / "odd"))
    folder = start(TrainJob.from_values({**options, "output_dir": "saves/failing", **TWO}))
    assert wait_for_end(folder) == "failed"
    error = read_state(folder).error
    assert error["key"] == "rank_failed" and error["facts"]["rank"] == "1"
    assert "engine.work.reporter" in error["facts"]["cause"] and "Traceback" in folder.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_an_outer_launcher_starts_the_ranks(options, one, workplace, name):
    config = workplace / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\nnum_machines: 1\n"
        f"machine_rank: 0\nmixed_precision: 'no'\nuse_cpu: false\ngpu_ids: all\nmain_process_port: {free_port()}\n"
    )
    launchers = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "accelerate": [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(config)],
    }
    folder = trained(options, name, launchers[name], {"OMP_NUM_THREADS": "1"}, gradient_accumulation_steps=2)
    assert_same(folder, one)
    assert read_state(Folder(folder)).status == read_state(Folder(folder / "ranks" / "1")).status == "done"


@pytest.mark.slow
def test_two_machines_do_one_run_each_from_its_own_command(options, one):
    """Both are this one; each has a folder of its own for its log and state, and the first keeps the results."""
    values = {
        **options,
        **TWO,
        "nproc_per_node": 1,
        "nnodes": 2,
        "master_port": free_port(),
        "output_dir": "saves/nodes",
    }
    folders = [start(TrainJob.from_values({**values, "node_rank": rank})) for rank in (0, 1)]
    assert [folder.path for folder in folders] == [Path("saves/nodes"), Path("saves/nodes/nodes/1")]
    assert [wait_for_end(folder) for folder in folders] == ["done", "done"], folders[0].log.read_text()
    assert_same(folders[0].path, one)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_in_shards_learns_the_same_and_is_saved_whole(options, method, tiny_model):
    """torch's FSDP2 with gloo, which accelerate knows on GPUs only: see fsdp_on_cpu.py."""
    values = {**options, "max_steps": 8, "save_steps": 4, "eval_strategy": "no", "val_size": 0}
    values |= {"finetuning_type": method, "learning_rate": 1e-2 if method == "lora" else 1e-3}
    whole = trained(values, f"{method}-whole", **ONE)

    def in_shards(name: str, **changes) -> Path:
        folder = Folder(Path("saves", name))
        folder.path.mkdir(parents=True)
        job = TrainJob.from_values({**values, "output_dir": str(folder.path), "parallel": "fsdp2", **TWO, **changes})
        write_job(folder, job, "en")
        update_state(folder, kind="train", status="running", started_at=time.time())
        script = str(Path(__file__).with_name("fsdp_on_cpu.py"))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(folder.path)], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return folder.path

    shards = in_shards(f"{method}-shards")
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (shards / "checkpoint-4" / "pytorch_model_fsdp.bin").is_file(), "it was not FSDP that did it"
    assert_same(shards, whole, weights=weights)
    if method == "lora":
        resumed = in_shards("lora-shards-resumed", resume_from_checkpoint=str(shards / "checkpoint-4"))
        assert_same(resumed, whole, after=4)
