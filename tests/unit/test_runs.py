"""A run's folder tells the truth: torn lines, dead workers, two writers, runs elsewhere. Real processes, real locks."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from engine.errors import Refused, UserError
from engine.options.jobs import ChatJob, ExportJob, GgufJob, TrainJob
from engine.runs.folder import SAVES, Folder, all_folders, find_folder, model_label, new_folder
from engine.runs.progress import watch
from engine.runs.read import is_alive, list_runs, read_events, read_job, read_log, read_state
from engine.runs.record import Recorder, StopRequested, append_line, update_state, write_job, write_text
from engine.runs.resume import resumed_job
from engine.runs.start import folder_for, start
from engine.runs.stop import ask_to_stop, end_now

PROJECT = Path(__file__).resolve().parent.parent.parent

WORKER = """
import fcntl, os, signal, sys, time
from pathlib import Path
from engine.runs.folder import Folder
from engine.runs.record import Recorder
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
folder = Folder(Path(sys.argv[1]))
lock = folder.lock.open("ab")
fcntl.flock(lock, fcntl.LOCK_EX)
recorder = Recorder(folder)
recorder.state(status="running", kind="train", pid=os.getpid(), started_at=time.time())
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def worker():
    """Starts processes that hold a run's lock as a worker does; ends them after the test."""
    started = []

    def begin(folder: Folder, code: str = "") -> subprocess.Popen:
        folder.path.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", f"{WORKER}\n{code}\nprint('ready', flush=True)\ntime.sleep(600)", folder.path],
            env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def a_run(name: str = "model/lora/train_1", **state) -> Folder:
    folder = Folder(SAVES / name)
    folder.path.mkdir(parents=True)
    update_state(folder, **{"kind": "train", "status": "done", **state})
    return folder


# Alive or lost


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_dies_unheard_is_lost(worker, number):
    folder = Folder(Path("run"))
    process = worker(folder)
    assert is_alive(folder)
    assert read_state(folder).status == "running"
    process.send_signal(number)
    process.wait()
    assert not is_alive(folder)
    assert read_state(folder).status == "lost"
    assert json.loads(folder.state.read_text())["status"] == "running", "a reader has written"


def test_readers_do_not_disturb_each_other_or_the_worker(worker):
    folder = Folder(Path("run"))
    worker(folder)
    seen = []
    readers = [
        threading.Thread(target=lambda: seen.extend(read_state(folder).status for _ in range(100))) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert set(seen) == {"running"} and len(seen) == 800


def test_another_reader_is_not_taken_for_a_worker():
    folder = a_run(status="running")
    with folder.lock.open("wb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not is_alive(folder)
        assert read_state(folder).status == "lost"


def test_reading_leaves_no_trace(worker):
    folder = Folder(Path("run"))
    worker(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    read_state(folder), read_events(folder), read_log(folder), is_alive(folder), watch(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before


@pytest.mark.parametrize("status", ["done", "failed", "stopped"])
def test_an_ended_run_stays_ended(status):
    state = read_state(a_run(status=status))
    assert state.status == status and state.has_ended


def test_no_run_at_all():
    with pytest.raises(FileNotFoundError):
        read_state(Folder(Path("nothing")))
    assert not is_alive(Folder(Path("nothing")))
    assert not Path("nothing").exists()


# Events


def test_events_come_once_each_by_offset():
    folder = a_run()
    recorder = Recorder(folder)
    assert read_events(folder) == ([], 0)
    recorder.event(current_steps=1, loss=2.5)
    recorder.event(current_steps=2, text="Größe 文\nline")
    events, offset = read_events(folder)
    assert [event["current_steps"] for event in events] == [1, 2]
    assert events[1]["text"] == "Größe 文\nline"
    assert offset == folder.events.stat().st_size
    assert read_events(folder, offset) == ([], offset)
    recorder.event(current_steps=3)
    events, end = read_events(folder, offset)
    assert [event["current_steps"] for event in events] == [3] and end > offset


def test_a_line_that_is_being_written_waits():
    folder = a_run()
    append_line(folder.events, {"a": 1})
    with folder.events.open("ab") as file:
        file.write('{"b": "文'.encode()[:-1])  # in the middle of a letter
    events, offset = read_events(folder)
    assert events == [{"a": 1}]
    with folder.events.open("ab") as file:
        file.write("文".encode()[-1:] + b'"}\n')
    assert read_events(folder, offset)[0] == [{"b": "文"}]


def test_the_torn_last_line_of_a_killed_writer_harms_no_other(worker):
    folder = Folder(Path("run"))
    code = "recorder.event(step=1)\nfolder.events.open('ab').write(b'{\"step\": 2, \"lo')"
    process = worker(folder, code)
    process.kill()
    process.wait()
    assert [event["step"] for event in read_events(folder)[0]] == [1]
    Recorder(folder).event(step=3)
    Recorder(folder).event(step=4)
    assert [event["step"] for event in read_events(folder)[0]] == [1, 3, 4]
    _, offset = read_events(folder)
    assert offset == folder.events.stat().st_size


@pytest.mark.parametrize("line", [b"null", b"[1]", b"7", b"\xff\xfe", b"", b'{"a": 1}}'])
def test_a_line_that_is_no_event_is_passed_over(line):
    folder = a_run()
    folder.events.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert [event["a"] for event in read_events(folder)[0]] == [1, 2]


def test_many_phases_are_written_seldom_but_the_last_of_each_always():
    folder = a_run()
    recorder = Recorder(folder)
    for current in range(1, 1001):
        recorder.phase("encoding", current, 1000, "rows")
    recorder.phase("training")
    events = read_events(folder)[0]
    assert len(events) < 20
    assert [event["phase"] for event in events][-1] == "training"
    assert events[0]["current"] == 1 and events[-2]["current"] == 1000


# State


def test_state_is_replaced_as_a_whole(worker):
    """While one process rewrites the state without pause, no reader ever meets a half of it."""
    folder = Folder(Path("run"))
    code = (
        "print('ready', flush=True)\n"
        "for i in range(10**9): recorder.state(status='running', result={'text': 'x' * 20000, 'i': i})"
    )
    worker(folder, code)
    numbers = []
    while len(set(numbers)) < 50:
        result = read_state(folder).result
        if result:
            assert len(result["text"]) == 20000
            numbers.append(result["i"])
    assert numbers == sorted(numbers)


def test_a_write_that_fails_leaves_the_old_text():
    path = Path("file")
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [each.name for each in Path().iterdir()] == ["file"]


def test_facts_are_merged_into_the_state():
    folder = a_run(status="running", started_at=5.0)
    Recorder(folder).state(status="failed", error={"key": "unexpected", "facts": {"detail": "x"}})
    state = read_state(folder)
    assert (state.status, state.started_at, state.error["key"]) == ("failed", 5.0, "unexpected")


@pytest.mark.parametrize(
    "job",
    [
        TrainJob(dataset=("a", "b, c"), lora_alpha=None, plot_loss=False, lora_dropout=0.0, adam_beta2=0.95),
        ChatJob(model_name_or_path=None, gguf="a b.gguf", system="文\nno"),
        ExportJob(export_dir="x", adapter_name_or_path=("a",)),
        GgufJob(outtype="q4_k_m"),
    ],
    ids=lambda job: job.kind,
)
def test_a_job_is_read_as_it_was_asked(job):
    folder = a_run()
    write_job(folder, job, "zh")
    assert read_job(folder) == job
    assert yaml.safe_load(folder.job.read_text(encoding="utf-8"))["language"] == "zh"


def test_a_log_shows_the_last_form_of_a_line_that_is_rewritten():
    folder = a_run()
    assert read_log(folder) == ""
    folder.log.write_bytes(b"start\n 10%\r 50%\r100%\r\nend\n")
    assert read_log(folder) == "start\n100%\nend\n"
    folder.log.write_bytes("文".encode() * 1000 + b"\nlast\n")
    assert read_log(folder, last_bytes=100) == "last\n"


# Names and places


def test_runs_are_found_by_what_a_person_calls_them():
    folder = a_run("SmolLM2/lora/train_1")
    a_run("SmolLM2/full/train_2")
    a_run("Qwen/lora/train_2")
    for name in ("SmolLM2/lora/train_1", "saves/SmolLM2/lora/train_1", "train_1", str(folder.path.absolute())):
        assert find_folder(name).path.resolve() == folder.path.resolve()
    with pytest.raises(LookupError) as several:
        find_folder("train_2")
    assert set(several.value.args) == {"SmolLM2/full/train_2", "Qwen/lora/train_2"}
    with pytest.raises(LookupError) as none:
        find_folder("train_3")
    assert none.value.args == ()
    assert find_folder("SmolLM2/full/train_2").name == "SmolLM2/full/train_2"


def test_runs_are_listed_latest_first_and_by_kind():
    a_run("m/lora/old", started_at=1.0)
    a_run("m/lora/new", started_at=3.0)
    a_run("m/export/two", started_at=2.0, kind="export")
    (SAVES / "m" / "lora" / "broken").mkdir()
    (SAVES / "m" / "lora" / "broken" / "state.json").write_text("{")
    (SAVES / "m" / "lora" / "new" / "checkpoint-5").mkdir()
    (SAVES / "m" / "lora" / "new" / "checkpoint-5" / "state.json").write_text("{}")
    assert [folder.path.name for folder, _ in list_runs()] == ["new", "two", "old"]
    assert [folder.path.name for folder, _ in list_runs("export", "gguf")] == ["two"]


def test_no_saves_no_runs():
    assert list_runs() == [] and all_folders() == []
    assert not SAVES.exists()


def test_two_runs_of_one_second_have_two_folders():
    first = new_folder("train", "Qwen/Qwen3-0.6B", "lora")
    assert not first.path.exists()
    first.path.mkdir(parents=True)
    second = new_folder("train", "Qwen/Qwen3-0.6B", "lora")
    assert second.path != first.path
    assert first.path.parts[:3] == ("saves", "Qwen3-0.6B", "lora")


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("a b/c d", "c_d"),
        ("/m/..", "model"),
        (".hid", "hid"),
        (None, "model"),
        ("/", "model"),
        ("模型", "模型"),
    ],
)
def test_a_models_label_is_a_plain_folder_name(model, label):
    assert model_label(model) == label


def test_only_whole_checkpoints_count_in_their_order():
    folder = a_run()
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-x"):
        (folder.path / name).mkdir()
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-x"):
        (folder.path / name / "trainer_state.json").write_text("{}")
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-20", "checkpoint-100"]


# Stop


def test_asking_to_stop(worker):
    folder = Folder(Path("run"))
    process = worker(folder)
    recorder = Recorder(folder)
    recorder.check_stop()
    ask_to_stop(folder)
    assert read_state(folder).status == "stopping"
    with pytest.raises(StopRequested):
        recorder.check_stop()
    assert process.poll() is None, "asked, not killed"


def test_ending_a_worker_that_listens(worker):
    folder = Folder(Path("run"))
    process = worker(folder)
    threading.Thread(target=process.wait, daemon=True).start()
    end_now(folder)
    assert read_state(folder).status == "stopped"
    assert not is_alive(folder)


def test_ending_a_worker_that_does_not_listen_and_its_children(worker):
    folder = Folder(Path("run"))
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        " signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'])\n"
        "recorder.state(result={'child': child.pid})"
    )
    process = worker(folder, code)
    child = psutil.Process(read_state(folder).result["child"])
    threading.Thread(target=process.wait, daemon=True).start()
    end_now(folder, grace_s=0.3)
    assert read_state(folder).status == "stopped"
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_ending_a_run_that_has_ended_changes_nothing():
    folder = a_run(status="done", pid=os.getpid())  # a number that another process, this one, has by now
    end_now(folder)
    assert read_state(folder).status == "done"


def test_ending_a_lost_run_touches_no_process_that_has_its_number_now():
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        folder = a_run(status="running", pid=bystander.pid)
        end_now(folder)
        assert bystander.poll() is None
        assert read_state(folder).status == "stopped"
    finally:
        bystander.kill()
        bystander.wait()


# Start


@pytest.fixture
def broken_model(tmp_path) -> Path:
    """A folder that looks like a model until its weights are wanted."""
    folder = tmp_path / "broken_model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(b"these are no weights")
    return folder


def wait_for_end(folder: Folder, timeout_s: float = 120):
    deadline = time.monotonic() + timeout_s
    while not read_state(folder).has_ended or is_alive(folder):
        assert time.monotonic() < deadline, read_log(folder)
        time.sleep(0.05)
    return read_state(folder)


@pytest.mark.slow
def test_a_worker_that_fails_tells_why_and_leaves_its_traceback_in_the_log(broken_model):
    job = GgufJob(model_name_or_path=str(broken_model), outfile="out.gguf")
    folder = start(job, language="ru")
    assert is_alive(folder), "the lock passes from starter to worker with no gap"
    state = wait_for_end(folder)
    assert state.status == "failed"
    assert state.error["key"] and state.finished_at >= state.started_at
    assert UserError(state.error["key"], **state.error["facts"]).text()
    assert "Traceback" in read_log(folder)
    assert read_job(folder) == job
    assert not Path("out.gguf").exists()


def test_a_started_worker_can_be_ended_at_once_and_is_never_lost(broken_model):
    folder = start(GgufJob(model_name_or_path=str(broken_model), outfile="out.gguf"))
    end_now(folder)
    assert read_state(folder).status in ("stopped", "failed")
    assert not is_alive(folder)


def test_a_run_that_is_started_again_does_not_pass_on_its_old_number(workplace, broken_model):
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        folder = a_run("run", status="stopped", pid=bystander.pid)
        start(TrainJob(model_name_or_path=str(broken_model), dataset=("identity",), output_dir=str(folder.path)))
        end_now(folder)
        assert bystander.poll() is None
        assert read_state(folder).has_ended
    finally:
        bystander.kill()
        bystander.wait()


def test_a_folder_in_use_is_refused(worker, workplace, broken_model):
    folder = Folder(Path("saves/run"))
    worker(folder)
    job = TrainJob(model_name_or_path=str(broken_model), dataset=("identity",), output_dir="saves/run")
    with pytest.raises(UserError) as refused:
        start(job.model_copy(update={"overwrite_output_dir": True}))
    assert refused.value.key == "run_in_use"
    assert read_state(folder).status == "running"


def test_a_finished_run_is_not_written_over(workplace, broken_model):
    folder = a_run("run", result={"kept": True})
    job = TrainJob(model_name_or_path=str(broken_model), dataset=("identity",), output_dir=str(folder.path))
    with pytest.raises(UserError) as refused:
        start(job)
    assert refused.value.key == "output_dir_finished"
    assert read_state(folder).result == {"kept": True}


def test_foreign_weights_are_not_written_over(workplace, broken_model):
    Path("elsewhere").mkdir()
    Path("elsewhere/adapter_model.safetensors").write_bytes(b"precious")
    job = TrainJob(model_name_or_path=str(broken_model), dataset=("identity",), output_dir="elsewhere")
    with pytest.raises(UserError) as refused:
        start(job)
    assert refused.value.key == "output_dir_finished"
    assert Path("elsewhere/adapter_model.safetensors").read_bytes() == b"precious"


def test_what_is_missing_on_disk_is_refused_before_a_folder_is_made(workplace):
    job = TrainJob(model_name_or_path="no/such", dataset=("nothing", "identity"), template="nope", output_dir="saves/x")
    with pytest.raises(Refused) as refused:
        start(job)
    assert {problem.option for problem in refused.value.problems} >= {"dataset", "template"}
    assert not Path("saves").exists()


def test_a_run_elsewhere_is_listed_too(workplace, broken_model, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "my run"
    job = TrainJob(model_name_or_path=str(broken_model), dataset=("identity",), output_dir=str(elsewhere))
    folder = start(job)
    end_now(folder)
    assert [found.path.resolve() for found, _ in list_runs("train")] == [elsewhere.resolve()]
    assert find_folder(str(elsewhere)).path == elsewhere
    start(job.model_copy(update={"overwrite_output_dir": True}))
    end_now(folder)
    assert len(list_runs()) == 1, "one link a run"


def test_where_runs_lie():
    assert folder_for(TrainJob(output_dir="a/b")).path == Path("a/b")
    assert folder_for(TrainJob(model_name_or_path="x/M", finetuning_type="full")).path.parts[:3] == (
        "saves",
        "M",
        "full",
    )
    assert folder_for(ChatJob(gguf="a.gguf")).path.parts[:3] == ("saves", "a.gguf", "chat")


def test_going_on_with_a_run():
    folder = a_run(status="stopped")
    write_job(folder, TrainJob(dataset=("identity",), lora_rank=4), "en")
    job = resumed_job(folder)
    assert job.resume_from_checkpoint == "true", "the last one that is undamaged, or none"
    assert (job.lora_rank, job.output_dir, job.overwrite_output_dir) == (4, str(folder.path), False)
    update_state(folder, status="done")
    with pytest.raises(UserError) as refused:
        resumed_job(folder)
    assert refused.value.key == "resume_finished"
