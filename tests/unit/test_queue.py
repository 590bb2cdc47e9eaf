"""The queue as files: order, seats, double clicks, killed keepers. Real locks; workers that wait to be told."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import terminal.watch
from engine.catalog.devices import Device
from engine.errors import Refused, UserError
from engine.options.jobs import ChatJob, PreflightJob, TrainJob
from engine.runs import double, queue, seats
from engine.runs import start as starting
from engine.runs.folder import QUEUE, SAVES, Folder
from engine.runs.queue import (
    advance,
    cancel,
    held_back_by,
    keep,
    keep_going,
    move,
    pause,
    place_of,
    read_settings,
    resume,
    submit,
    submit_all,
    waiting,
)
from engine.runs.read import is_alive, list_runs, read_job, read_state
from engine.runs.record import update_state, write_job
from engine.runs.resume import resumed_job, why_not_resumable
from engine.runs.seats import Wish, occupant, seat_of, wished
from engine.runs.start import start
from engine.runs.stop import end_now
from engine.runs.sweep import MOST_RUNS, changed_job, job_of, sweep_jobs, values_of
from terminal.runs import runs

PROJECT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 60
WORKER = """
import os, sys, time
from pathlib import Path
from engine.runs.folder import Folder
from engine.runs.record import Recorder
recorder = Recorder(Folder(Path(sys.argv[1])))
recorder.state(status="running", pid=os.getpid())
told = Path(sys.argv[1], "end")
while not told.is_file():
    time.sleep(0.01)
recorder.state(status=told.read_text(), finished_at=time.time())
"""
CPU = Device("cpu", "a CPU", 8 * 10**9, 8 * 10**9, cores=2)
GPUS = (
    Device("cuda", "small", 8 * 10**9, 4 * 10**9, 0, (8, 0)),
    Device("cuda", "large", 16 * 10**9, 12 * 10**9, 1, (8, 0)),
)


@pytest.fixture(autouse=True)
def workers(workplace, monkeypatch):
    """Workers that hold their run's lock until they are told how to end; and no keeper but ``advance`` by the test."""
    started: list[subprocess.Popen] = []

    def spawn(job, folder, lock_descriptor, owner_pid, found) -> None:
        (folder.path / "end").unlink(missing_ok=True)
        (folder.path / "seen.json").write_text(json.dumps([device.address for device in found]))
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.path)], stdin=lock_descriptor, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        started.append(process)

    monkeypatch.setattr(starting, "_spawn", spawn)
    monkeypatch.setattr(starting, "devices", lambda: (CPU,))
    monkeypatch.setattr(queue, "_keep", lambda: None)
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def job(workplace) -> TrainJob:
    model = workplace / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (model / "model.safetensors").write_bytes(b"no weights")
    return TrainJob(model_name_or_path=str(model), dataset=("identity",))


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end(folder: Folder, status: str = "done") -> None:
    """Let a worker end, and see that it has left."""
    wait(lambda: read_state(folder).status == "running")
    (folder.path / "end").write_text(status)
    wait(lambda: not is_alive(folder))


def line() -> list[Folder]:
    return [each.folder for each in waiting()]


# In line


def test_the_first_starts_and_the_others_wait_in_their_order(job):
    first, second, third = (submit(job) for _ in range(3))
    assert is_alive(first) and place_of(first) is None
    assert line() == [second, third]
    assert [place_of(each) for each in (second, third)] == [1, 2]
    assert read_state(second).status == "queued" and not read_state(second).has_ended
    assert read_job(second) == job
    assert advance() == [], "the device is taken"
    end(first)
    assert advance() == [second] and line() == [third]
    end(second, "failed")
    assert advance() == [third] and line() == []
    end(third)
    assert [read_state(each).status for each in (first, second, third)] == ["done", "failed", "done"]


def test_nobody_overtakes_one_that_waits_though_the_device_is_free(job):
    first, second = submit(job), submit(job)
    end(first)
    third = submit(job)
    assert line() == [second, third]
    assert advance() == [second], "one at a time"


def test_two_who_start_at_the_same_moment_do_not_collide(job):
    made: list[Folder] = []
    threads = [threading.Thread(target=lambda: made.append(submit(job))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.path for each in made}) == 6
    assert [is_alive(each) for each in made].count(True) == 1
    assert len(line()) == 5 and [place_of(each) for each in line()] == [1, 2, 3, 4, 5]


def test_a_start_beside_the_queue_is_refused_and_changes_nothing(job):
    first = submit(job)
    with pytest.raises(UserError) as refused:
        start(job.model_copy(update={"output_dir": "saves/other"}))
    assert refused.value.key == "device_busy" and first.name in refused.value.text()
    assert [folder for folder, _ in list_runs()] == [first]


def test_several_are_submitted_in_their_order_and_refused_before_any_is(job):
    folders = submit_all([changed_job(job, "lora_rank", rank) for rank in (4, 8, 16)])
    assert [read_job(each).lora_rank for each in folders] == [4, 8, 16]
    assert line() == folders[1:]
    before = len(list_runs())
    with pytest.raises(Refused):
        submit_all([job, job.model_copy(update={"dataset": ("nothing",)})])
    assert len(list_runs()) == before


def test_a_folder_waits_only_once(job):
    submit(job)
    named = job.model_copy(update={"output_dir": "saves/named"})
    submit(named)
    with pytest.raises(UserError) as refused:
        submit(named)
    assert refused.value.key == "queue.waits_already"
    assert line() == [Folder(Path("saves/named"))]


def test_a_run_elsewhere_waits_too(job, tmp_path_factory):
    submit(job)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "run"
    submit(job.model_copy(update={"output_dir": str(elsewhere)}))
    assert [each.path.resolve() for each in line()] == [elsewhere.resolve()]


def test_what_needs_no_device_does_not_wait(job):
    submit(job)
    chat = submit(ChatJob(model_name_or_path=job.model_name_or_path))
    assert is_alive(chat) and place_of(chat) is None
    assert wished(PreflightJob(**job.model_dump()), (CPU,)) is None
    assert wished(job.model_copy(update={"nnodes": 2}), (CPU,)) is None


# Reorder, cancel


def test_every_move_gives_the_place_that_was_asked_for(job):
    submit(job)
    folders = [submit(job) for _ in range(5)]
    for index, place in itertools.product(range(5), range(1, 6)):
        moved = folders[index]
        expected = [each for each in line() if each != moved]
        expected.insert(place - 1, moved)
        move(moved, place)
        assert line() == expected


def test_beyond_the_ends_means_the_ends(job):
    submit(job)
    folders = [submit(job) for _ in range(3)]
    move(folders[0], 99)
    assert line() == [folders[1], folders[2], folders[0]]
    move(folders[0], -3)
    assert line() == folders


def test_a_thousand_moves_between_the_same_two_find_room(job):
    submit(job)
    folders = [submit(job) for _ in range(4)]
    for _ in range(500):
        for moved in folders[2:]:
            move(moved, 2)
    assert line() == [folders[0], folders[3], folders[2], folders[1]]


def test_a_cancelled_run_is_never_started(job):
    first, second, third = (submit(job) for _ in range(3))
    cancel(second)
    assert read_state(second).status == "stopped" and line() == [third]
    assert not second.queued.exists()
    for folder in (second, first):
        with pytest.raises(UserError) as refused:
            cancel(folder)
        assert refused.value.key == "queue.not_waiting"
    end(first)
    assert advance() == [third]


def test_a_cancelled_resume_is_again_what_it_was(job):
    submit(job)
    old = Folder(SAVES / "old")
    old.path.mkdir()
    old_job = job.model_copy(update={"lora_rank": 4})
    write_job(old, old_job, "en")
    update_state(old, kind="train", status="stopped", started_at=7.0, finished_at=9.0, result={"kept": True})
    before = old.job.read_bytes(), json.loads(old.state.read_text())
    assert submit(resumed_job(old)) == old
    assert read_state(old).status == "queued" and read_job(old).resume_from_checkpoint == "true"
    assert why_not_resumable(old)[0] == "resume.waits"
    move(old, 1)
    cancel(old)
    assert (old.job.read_bytes(), json.loads(old.state.read_text())) == before


def test_ending_a_waiting_run_harms_nobody(job):
    first, second = submit(job), submit(job)
    end_now(second)
    assert read_state(second).status == "queued" and is_alive(first)


# Pause, failures


def test_a_paused_queue_starts_nothing_until_it_is_resumed(job):
    first, second = submit(job), submit(job)
    pause()
    end(first)
    assert advance() == [] and read_settings().is_paused
    resume()
    assert advance() == [second] and not read_settings().is_paused


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_failure_holds_the_next_one_back_where_that_is_wanted(job, how, workers):
    keep_going(False)
    first, second, third = (submit(job) for _ in range(3))
    if how == "lost":
        wait(lambda: read_state(first).status == "running")
        workers[0].kill()
        wait(lambda: not is_alive(first))
    else:
        end(first, "failed")
    assert read_state(first).status == how
    assert advance() == [] and held_back_by(waiting()[0]) == first
    resume()
    assert held_back_by(waiting()[0]) is None
    assert advance() == [second]
    end(second, "failed")
    assert advance() == [], "each failure holds back anew"
    keep_going(True)
    assert advance() == [third]


def test_a_run_that_was_stopped_is_no_failure(job):
    keep_going(False)
    first, second = submit(job), submit(job)
    end(first, "stopped")
    assert advance() == [second]


@pytest.mark.parametrize("is_going_on", [True, False])
def test_a_run_that_can_no_longer_be_started_has_failed_with_the_cause(job, is_going_on):
    Path("rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    keep_going(is_going_on)
    first = submit(job)
    broken, last = submit(job.model_copy(update={"dataset": ("rows.json",)})), submit(job)
    Path("rows.json").unlink()
    end(first)
    started = advance() + advance()
    state = read_state(broken)
    assert state.status == "failed" and "rows.json" in UserError(state.error["key"], **state.error["facts"]).text()
    assert not broken.queued.exists()
    assert started == ([broken, last] if is_going_on else [broken])


# Killed in between


def test_a_start_that_was_cut_short_is_made_again(job, monkeypatch):
    first, second = submit(job), submit(job)
    end(first)

    def killed(*_):
        raise KeyboardInterrupt  # as good as a kill: nothing below catches it

    with monkeypatch.context() as patch:
        patch.setattr(starting, "_spawn", killed)
        with pytest.raises(KeyboardInterrupt):
            advance()
    assert json.loads(second.state.read_text())["status"] == "starting"
    assert read_state(second).status == "queued" and line() == [second]
    assert advance() == [second] and not second.queued.exists()


def test_a_submission_that_was_cut_short_leaves_no_run(job, monkeypatch):
    submit(job)
    monkeypatch.setattr(queue, "update_state", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        submit(job.model_copy(update={"output_dir": "saves/half"}))
    assert line() == [] and len(list_runs()) == 1
    monkeypatch.undo()


def test_a_worker_that_dies_leaves_its_seat(job, workers):
    first, second = submit(job), submit(job)
    wait(lambda: read_state(first).status == "running")
    assert occupant("cpu") == first
    os.killpg(workers[0].pid, signal.SIGKILL)
    wait(lambda: occupant("cpu") is None)
    assert advance() == [second]


def test_the_keeper_starts_what_waits_and_leaves(job, monkeypatch):
    """The keeper itself, on runs that cannot be started: what they lack is looked for without torch."""
    monkeypatch.undo()
    monkeypatch.chdir(job.model_name_or_path and Path(job.model_name_or_path).parent)
    busy = Folder(SAVES / "busy")
    busy.path.mkdir(parents=True)
    update_state(busy, kind="train", status="running", seats=["cpu"])
    Path("rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    with busy.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seats.sit(busy, ["cpu"])
        folders = [submit(job.model_copy(update={"dataset": ("rows.json",)})) for _ in range(2)]
        assert line() == folders and is_kept()
        keep()
        keepers = keeper_pids()
        assert len(keepers) == 1, "one for each saves"
        os.kill(keepers[0], signal.SIGKILL)
        os.waitpid(keepers[0], 0)
        assert not is_kept() and line() == folders, "nothing is lost"
        keep()
        assert is_kept()
        Path("rows.json").unlink()
    wait(lambda: line() == [])
    assert [read_state(each).status for each in folders] == ["failed", "failed"]
    wait(lambda: not is_kept())


def is_kept() -> bool:
    with queue.KEEPER_LOCK.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def keeper_pids() -> list[int]:
    """Children of this process that mind a queue."""
    import psutil

    return [child.pid for child in psutil.Process().children() if "engine.runs.keeper" in child.cmdline()]


# Double clicks


def test_a_double_click_starts_once(job, monkeypatch):
    monkeypatch.setattr(double, "MOMENT_S", 3600)
    first = submit(job, token="page")
    assert submit(job, token="page") == first
    assert len(list_runs()) == 1
    assert submit(changed_job(job, "lora_rank", 4), token="page") != first, "another job is no double click"
    assert submit(job, token="another page") != first
    assert submit(job) != first, "whoever gives no token means it"
    assert len(list_runs()) == 4
    monkeypatch.setattr(double, "MOMENT_S", 0)
    assert submit(job, token="page") != first


def test_a_double_click_that_is_queued_is_queued_once(job, monkeypatch):
    monkeypatch.setattr(double, "MOMENT_S", 3600)
    submit(job)
    made: list[Folder] = []
    threads = [threading.Thread(target=lambda: made.append(submit(job, token="page"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1 and line() == made[:1]


def test_a_click_that_was_refused_does_not_count(job, monkeypatch):
    monkeypatch.setattr(double, "MOMENT_S", 3600)
    wrong = job.model_copy(update={"dataset": ("rows.json",)})
    with pytest.raises(Refused):
        submit(wrong, token="page")
    Path("rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    assert is_alive(submit(wrong, token="page"))


# Seats


def test_each_gpu_has_a_line_of_its_own(job, monkeypatch):
    monkeypatch.setattr(starting, "devices", lambda: (CPU, *GPUS))
    on = {number: job.model_copy(update={"devices": (str(number),)}) for number in (0, 1)}
    first, second = submit(on[0]), submit(on[0])
    other = submit(on[1])
    assert is_alive(first) and is_alive(other) and line() == [second]
    assert (occupant("cuda:0"), occupant("cuda:1"), occupant("cpu")) == (first, other, None)
    end(other)
    assert advance() == [] and is_alive(submit(on[1]))
    end(first)
    assert advance() == [second]


def test_a_run_that_names_no_gpu_takes_a_free_one(job, monkeypatch):
    monkeypatch.setattr(starting, "devices", lambda: (CPU, *GPUS))
    first, second, third = (submit(job) for _ in range(3))
    assert (occupant("cuda:1"), occupant("cuda:0")) == (first, second), "the freest first"
    assert json.loads((second.path / "seen.json").read_text()) == ["cpu", "cuda:0"], "it sees no other"
    assert line() == [third]
    end(second)
    assert advance() == [third] and occupant("cuda:0") == third


def test_one_that_needs_both_gpus_is_not_overtaken(job, monkeypatch):
    monkeypatch.setattr(starting, "devices", lambda: (CPU, *GPUS))
    first = submit(job.model_copy(update={"devices": ("0",)}))
    both = submit(job.model_copy(update={"devices": ("0", "1")}))
    later = submit(job.model_copy(update={"devices": ("1",)}))
    assert line() == [both, later] and advance() == []
    end(first)
    assert advance() == [both] and line() == [later]


def test_a_seat_is_that_of_the_gpu_not_of_its_number_here():
    assert [seat_of(gpu, {}) for gpu in GPUS] == ["cuda:0", "cuda:1"]
    assert seat_of(GPUS[0], {"CUDA_VISIBLE_DEVICES": "3,1"}) == "cuda:3"
    assert seat_of(CPU, {"CUDA_VISIBLE_DEVICES": "3"}) == "cpu"


def test_a_training_on_the_cpu_takes_no_gpu(job):
    on_cpu = TrainJob.from_values({**job.values(), "training_arguments": {"use_cpu": True}})
    assert wished(on_cpu, (CPU, *GPUS)) == Wish(("cpu",), 1)
    assert wished(job, (CPU, *GPUS)) == Wish(("cuda:1", "cuda:0"), 1)
    assert wished(job.model_copy(update={"nproc_per_node": 2}), (CPU, *GPUS)).count == 2


def test_a_seat_is_left_when_its_run_goes_on_elsewhere(job):
    folder = submit(job)
    assert occupant("cpu") == folder
    update_state(folder, seats=["cuda:0"])
    assert occupant("cpu") is None


# Sweeps


def test_one_option_changed_is_a_run_of_its_own(job):
    done = job.model_copy(update={"output_dir": "saves/done", "resume_from_checkpoint": "true", "lora_rank": 4})
    again = changed_job(done, "learning_rate", "1e-3")
    assert again.learning_rate == 1e-3 and again.lora_rank == 4
    assert (again.output_dir, again.resume_from_checkpoint) == (None, None)
    with pytest.raises(Refused):
        changed_job(done, "lora_rank", "none at all")
    with pytest.raises(Refused):
        changed_job(done, "lora_rnak", 4)


def test_a_sweep_is_every_pair_of_values(job):
    swept = sweep_jobs(job, {"lora_rank": ["4", "8"], "learning_rate": [1e-4, 1e-5, 1e-6]})
    pairs = [(each.lora_rank, each.learning_rate) for each in swept]
    assert pairs == [(4, 1e-4), (4, 1e-5), (4, 1e-6), (8, 1e-4), (8, 1e-5), (8, 1e-6)]
    with pytest.raises(UserError) as refused:
        sweep_jobs(job, {"lora_rank": [4], "learning_rate": [1e-4], "seed": [1]})
    assert refused.value.key == "queue.sweep_too_wide"


@pytest.mark.parametrize(
    "text, values",
    [
        ("8, 16,32", ["8", "16", "32"]), ("8,16,", ["8", "16"]), (" cosine ", ["cosine"]), ("", [""]),
        ("1e-4", ["1e-4"]),
        ('["q_proj,v_proj", "all"]', ["q_proj,v_proj", "all"]), (" [8, 16]", [8, 16]),
    ],
)  # fmt: skip
def test_values_are_read_as_they_are_typed(text, values):
    assert values_of(text) == values


def test_what_comes_to_the_same_is_one_run(job):
    assert [each.lora_rank for each in sweep_jobs(job, {"lora_rank": ["8", "08", "16"], "seed": [1, "1"]})] == [8, 16]


def test_a_sweep_has_a_limit(job):
    assert len(sweep_jobs(job, {"lora_rank": range(1, 9), "seed": range(8)})) == MOST_RUNS
    with pytest.raises(UserError) as refused:
        sweep_jobs(job, {"lora_rank": range(1, 14), "seed": range(5)})
    assert refused.value.key == "sweep.too_many" and refused.value.facts["count"] == 65
    with pytest.raises(UserError) as refused:  # told before the values are looked at
        sweep_jobs(job, {"seed": ["no number"] * 65})
    assert refused.value.key == "sweep.too_many"


def test_any_training_can_be_done_again_whose_job_can_be_read(job):
    for number, status in enumerate(("done", "failed", "running", "queued")):
        folder = Folder(SAVES / f"run{number}")
        folder.path.mkdir(parents=True)
        write_job(folder, job, "en")
        update_state(folder, kind="train", status=status)
        assert job_of(folder) == job
    folder.job.write_text("options: [")
    unknown = "kind: train\noptions: {lora_rnak: 8}\n"
    for harm in (lambda: None, lambda: folder.job.write_text(unknown), folder.job.unlink):
        harm()
        with pytest.raises(UserError) as refused:
            job_of(folder)
        assert refused.value.key == "sweep.unreadable"
    write_job(folder, ChatJob(), "en")
    with pytest.raises(UserError) as refused:
        job_of(folder)
    assert refused.value.key == "queue.only_training"


# The terminal


def test_the_queue_in_the_terminal(job, capsys):
    first = submit(job)
    assert runs(["queue", "add", first.name, "--set", "lora_rank=4,8", "--set=seed=1"], "en") == 0
    second, third = line()
    assert [read_job(each).lora_rank for each in line()] == [4, 8]
    said = capsys.readouterr().out.splitlines()
    assert second.name in said[0] and "number 1" in said[0] and "number 2" in said[1]
    runs(["queue", "move", third.name, "first"], "en")
    assert line() == [third, second]
    runs(["queue", "move", third.name, "down"], "en")
    assert line() == [second, third]
    runs(["queue", "pause"], "en")
    assert read_settings().is_paused and "paused" in capsys.readouterr().out
    runs(["queue", "resume"], "en")
    runs(["queue", "keep_going", "false"], "en")
    assert not read_settings().is_paused and not read_settings().keeps_going
    capsys.readouterr()
    runs(["queue", "cancel", second.name], "en")
    assert line() == [third] and f"cpu is taken by {first.name}" in capsys.readouterr().out
    assert runs(["stop", third.name], "en") == 0
    assert line() == [] and read_state(third).status == "stopped"
    runs(["queue"], "en")
    assert "Nothing waits" in capsys.readouterr().out


def test_a_job_is_queued_from_a_file(job, capsys):
    submit(job)
    Path("job.yaml").write_text(f"model_name_or_path: {job.model_name_or_path}\ndataset: identity\n")
    runs(["queue", "add", "job.yaml", "lora_rank=2", "--set", 'lora_target=["q_proj,v_proj", "all"]'], "en")
    assert [read_job(each).lora_target for each in line()] == [("q_proj", "v_proj"), ("all",)]
    assert {read_job(each).lora_rank for each in line()} == {2}


def test_ctrl_c_takes_a_waiting_training_out_and_watching_leaves_it(job, capsys, monkeypatch):
    submit(job)
    other = submit(job)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal.watch.time, "sleep", interrupted)
    assert terminal.watch.stay_with(other, "en", stop_on_interrupt=False) == 0
    assert line() == [other] and "number 1" in capsys.readouterr().out
    assert terminal.watch.start_and_watch(job, "en") == 130
    said = capsys.readouterr().out
    assert "waits in the queue as number 2" in said and "Taken out of the queue" in said
    assert line() == [other]


@pytest.mark.parametrize(
    "words, key",
    [
        (["ad"], "unknown_command"), (["add"], "run_name_missing"), (["add", "nothing"], "run_unknown"),
        (["add", "{run}", "--set"], "flag_without_value"), (["add", "{run}", "--set", "seed"], "queue.set_what"),
        (["add", "{run}", "--set", "seed=[1"], "sweep.no_list"), (["add", "{run}", "more"], "unexpected_word"),
        (["add", "{run}", "--set", "seed=[]"], "sweep.no_list"),
        (["move", "{run}"], "queue.which_place"), (["move", "{run}", "2"], "queue.not_waiting"),
        (["keep_going", "maybe"], "not_a_boolean"), (["cancel"], "run_name_missing"),
        (["cancel", "{run}"], "queue.not_waiting"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(job, words, key):
    run = submit(job).name
    with pytest.raises(UserError) as refused:
        runs(["queue", *(word.format(run=run) for word in words)], "en")
    assert refused.value.key == key and refused.value.text("ja")


def test_the_files_of_the_queue_are_no_run(job):
    submit(job), submit(job, token="page")
    assert QUEUE.is_dir() and len(list_runs()) == 2
    assert not list(SAVES.rglob("*.tmp"))
