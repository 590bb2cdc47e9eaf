"""What is deleted is the run and nothing else: in use, cut off, among foreign files, behind links. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.errors import UserError
from engine.options.jobs import ChatJob, ExportJob, TrainJob
from engine.runs.checkpoints import STATE, seal
from engine.runs.delete import delete, discard, finish_deletions, freed
from engine.runs.folder import DELETIONS, SAVES, Folder, all_folders
from engine.runs.queue import cancel, waiting
from engine.runs.read import is_alive, read_state
from engine.runs.record import append_line, update_state, write_job
from engine.runs.start import leave_link, take_lock
from engine.runs.stop import end_now
from terminal.runs import runs

PROJECT = Path(__file__).resolve().parent.parent.parent
NEW = "model/lora/train_2026-01-02-03-04-05"
LEFT = (
    "adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "trainer_state.json", "training_args.bin",
    "training_args.yaml", "all_results.json", "train_results.json", "training_loss.png", "running_log.txt", "RUN.md",
    "ladder.jsonl", "notes.json", ".notes.lock", ".lock", "state.json.77.tmp", "runs/Jan01/events.out.tfevents.1.host",
    ".rows/0f.arrow", "ranks/1/running_log.txt",
)  # fmt: skip
HOLDER = """
import fcntl, os, sys, time
from pathlib import Path
from engine.runs.folder import Folder
from engine.runs.record import update_state
folder = Folder(Path(sys.argv[1]))
lock = folder.lock.open("ab")
fcntl.flock(lock, fcntl.LOCK_EX)
update_state(folder, status="running", pid=os.getpid())
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)


@pytest.fixture
def worker() -> Iterator[Callable]:
    """Starts processes that hold a run's lock as a worker does; ends them after the test."""
    started = []

    def begin(folder: Folder, code: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{HOLDER}\n{code}\nprint('ready', flush=True)\ntime.sleep(600)", folder.path],
            env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        threading.Thread(target=process.wait, daemon=True).start()
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def a_run(path: str | Path = SAVES / NEW, job=None, **state) -> Folder:
    """A training that has ended, with all that one leaves."""
    folder = Folder(Path(path))
    folder.path.mkdir(parents=True, exist_ok=True)
    now = time.time()
    update_state(folder, **{"kind": "train", "status": "done", "started_at": now, "finished_at": now, **state})
    write_job(folder, job or TrainJob(dataset=("identity",)), "en")
    append_line(folder.events, {"time": now})
    for name in LEFT:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("0123456789")
    for step in (4, 8):
        checkpoint(folder.path / f"checkpoint-{step}")
    return folder


def checkpoint(path: Path) -> Path:
    path.mkdir()
    for name in (STATE, "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth"):
        (path / name).write_text("{}")
    seal(path)
    return path


def tree(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def sizes(path: Path) -> tuple[int, int]:
    """Bytes and number of files, counted by another program."""
    out = subprocess.run(["find", path, "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True)
    found = list(map(int, out.stdout.split()))
    return sum(found), len(found)


def deleting_killed_before(folder: Folder, count: int) -> bool:
    """Delete in a process that is killed before the Nth thing that it does to the disk. Returns whether it was."""
    pid = os.fork()
    if not pid:
        left = [count]
        try:
            for owner, name in _TO_THE_DISK:
                setattr(owner, name, _counted(getattr(owner, name), left))
            delete(folder)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


_TO_THE_DISK = (
    (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "rmdir"), (os, "unlink"), (os, "rmdir"),
)  # fmt: skip


def _counted(real: Callable, left: list[int]) -> Callable:
    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return call


def refused(act: Callable, *arguments) -> str:
    with pytest.raises(UserError) as error:
        act(*arguments)
    assert error.value.text()
    return error.value.key


def old(path: Path) -> None:
    os.utime(path, (1e9, 1e9))


# All of it


def test_a_run_goes_as_a_whole_and_the_empty_folders_above_it():
    folder = a_run()
    before = freed(folder)
    assert (before.size_bytes, before.files) == sizes(folder.path)
    assert before.checkpoints == ("checkpoint-4", "checkpoint-8")
    assert (before.stays, before.needed_by, before.comes_back) == ((), (), False)
    assert delete(folder, before) == before
    assert [path.name for path in SAVES.iterdir()] == [DELETIONS.name]
    assert list(DELETIONS.glob("*.json")) == [] and all_folders() == []


def test_others_beside_it_stay():
    folder, other = a_run(), a_run(SAVES / "model/lora/other")
    before = tree(other.path)
    delete(folder)
    assert tree(other.path) == before and [each.path for each in all_folders()] == [other.path]
    assert sorted(path.name for path in other.path.parent.iterdir()) == ["other"]


def test_a_run_in_a_folder_that_somebody_named_goes_too():
    """``output_dir: saves/model/lora/sft``, as every command for LLaMA-Factory says it."""
    folder = a_run(SAVES / "model/lora/sft")
    assert freed(folder).stays == ()
    delete(folder)
    assert not folder.path.exists()


# In use


def test_a_living_run_is_not_deleted(worker):
    folder = a_run()
    worker(folder)
    before = tree(folder.path)
    assert refused(delete, folder) == "delete.alive"
    assert tree(folder.path) == before and is_alive(folder)


def test_a_waiting_run_is_not_deleted():
    folder = a_run(status="queued")
    assert refused(delete, folder) == "delete.waits" and folder.path.is_dir()


@pytest.mark.parametrize(
    ("kind", "name"), [("chat", "adapter_name_or_path"), ("export", "adapter_name_or_path"), ("train", "output_dir")]
)
def test_what_somebody_works_with_is_not_deleted(worker, kind, name, tmp_path):
    folder = a_run()
    alias = tmp_path / "alias"
    alias.symlink_to(folder.path.resolve(), target_is_directory=True)
    value = {"adapter_name_or_path": (str(folder.path / "checkpoint-4"),), "output_dir": str(alias / "inner")}[name]
    jobs = {"chat": ChatJob, "export": ExportJob, "train": TrainJob}
    user = a_run(SAVES / "x" / kind / "run", jobs[kind](**{"model_name_or_path": "m", name: value}), kind=kind)
    process = worker(user)
    assert refused(delete, folder) == refused(discard, folder) == "delete.in_use"
    process.kill()
    process.wait()
    assert freed(folder).needed_by == (() if kind == "train" else (user.name,))
    delete(folder)
    assert not folder.path.exists()


def test_who_waits_for_the_lock_meanwhile_does_not_start_in_a_deleted_folder():
    folder = a_run()
    with folder.lock.open("ab+") as lock:
        delete(folder)
        assert refused(take_lock, lock, folder) == "run_deleted"
    assert not folder.path.exists()


def test_only_the_run_that_was_shown_is_deleted():
    folder = a_run()
    shown = freed(folder)
    update_state(folder, started_at=time.time() + 5)
    assert refused(delete, folder, shown) == refused(discard, folder, shown) == "delete.changed"
    assert folder.path.is_dir()
    delete(folder)
    assert refused(delete, folder, shown) == "run_unknown"


# Foreign files


def test_among_the_users_own_files_only_the_run_goes(tmp_path):
    home = tmp_path / "project"
    home.mkdir()
    mine = {
        "clean.jsonl": "my data", "report.json": "{}", "train.py": "code", "config.json": "{}", "lengths.json": "[]",
        "vocab.txt": "words", "LICENSE": "", "data/rows.json": "[]", "all_results.json": "{}", "checkpoint-x/a": "",
    }  # fmt: skip
    for name, text in mine.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
        old(home / name)
    folder = a_run(home)
    old(home / "config.json"), old(home / "all_results.json")
    (home / "all_results.json").write_text("{}")
    old(home / "all_results.json")
    checkpoint(home / "checkpoint-4" / "merged").parent  # noqa: B018 a merged model in a checkpoint
    checkpoint(home / "checkpoint-500")
    (home / "checkpoint-500" / "manifest.json").unlink()  # written by another program
    leave_link(folder)
    told = freed(folder)
    expected = sorted([*(name for name in mine if "/" not in name), "data/", "checkpoint-x/", "checkpoint-500/"])
    assert list(told.stays) == sorted([*expected, "checkpoint-4/merged/"])
    linked = next(iter(all_folders()))
    delete(linked)
    left = [path for path in tree(home) if (home / path).is_file() and not path.startswith("checkpoint-")]
    assert left == sorted(name for name in mine if not name.startswith("checkpoint-"))
    assert tree(home / "checkpoint-4") == sorted(
        ["merged", *(f"merged/{each}" for each in tree(home / "checkpoint-4/merged"))]
    )
    assert (home / "checkpoint-500" / STATE).is_file() and (home / "checkpoint-x/a").is_file()
    assert all((home / name).read_text() == text for name, text in mine.items())
    assert not (SAVES / "elsewhere").exists() and all_folders() == []


def test_a_run_elsewhere_loses_folder_and_link(tmp_path):
    folder = a_run(tmp_path / "far" / "my run")
    leave_link(folder)
    (linked,) = all_folders()
    assert linked.path.is_symlink()
    delete(linked)
    assert tree(tmp_path / "far") == [] and not (SAVES / "elsewhere").exists()


def test_links_are_never_followed_and_stay(tmp_path):
    treasure = tmp_path / "treasure"
    checkpoint_there = checkpoint(treasure.parent / "big")
    treasure.mkdir()
    (treasure / "gold").write_text("gold")
    folder = a_run()
    (folder.path / "checkpoint-12").symlink_to(checkpoint_there, target_is_directory=True)
    (folder.path / ".saving").symlink_to(treasure, target_is_directory=True)
    (folder.path / "checkpoint-8" / "optimizer.pt").unlink()
    (folder.path / "checkpoint-8" / "optimizer.pt").symlink_to(treasure / "gold")
    told = freed(folder)
    assert told.stays == (".saving", "checkpoint-12", "checkpoint-8/optimizer.pt")
    assert told.checkpoints == ("checkpoint-4",) or "checkpoint-12" not in told.checkpoints
    delete(folder)
    assert (treasure / "gold").read_text() == "gold" and len(tree(checkpoint_there)) == 6
    assert tree(folder.path) == [".saving", "checkpoint-12", "checkpoint-8", "checkpoint-8/optimizer.pt"]
    assert all_folders() == []


# Cut off


@pytest.mark.parametrize("has_foreign", [False, True])
def test_killed_anywhere_no_half_run_is_seen_and_the_rest_goes_later(has_foreign, tmp_path):
    """kill -9 before each thing that a deletion does to the disk."""
    ends = set()
    for count in range(200):
        folder = a_run(SAVES / f"m/lora/run{count}")
        if has_foreign:
            (folder.path / "mine.txt").write_text("mine")
        before = tree(folder.path)
        was_killed = deleting_killed_before(folder, count)
        if any(each.path == folder.path for each in all_folders()):
            assert [path for path in tree(folder.path) if path != ".deleted"] == before, "half a run"
            ends.add("whole")
        finish_deletions()
        ends.add("killed" if was_killed else "done")
        if any(each.path == folder.path for each in all_folders()):
            delete(folder)
        assert tree(SAVES) == sorted(
            [".deletions", ".deletions/lock"]
            + (["m", "m/lora", f"m/lora/run{count}", f"m/lora/run{count}/mine.txt"] if has_foreign else [])
        )
        if has_foreign:
            (folder.path / "mine.txt").unlink()
            folder.path.rmdir(), folder.path.parent.rmdir(), folder.path.parent.parent.rmdir()
        if not was_killed:
            break
    assert ends == {"whole", "killed", "done"}


def test_a_new_run_in_the_place_of_a_cut_off_one_is_left_alone():
    folder = a_run()
    (folder.path / "mine.txt").write_text("mine")
    pieces = ["job.yaml", "adapter_model.safetensors"]
    folder.remains_within.mkdir()
    (folder.path / "state.json").rename(folder.remains_within / "state.json")
    DELETIONS.mkdir(parents=True)
    begun = {"root": str(folder.path.resolve()), "remains": str(folder.remains_within.resolve()), "pieces": pieces}
    (DELETIONS / "note.json").write_text(json.dumps(begun))
    update_state(folder, kind="train", status="done", started_at=time.time())
    finish_deletions()
    assert folder.job.exists() and (folder.path / "adapter_model.safetensors").exists()
    assert not folder.remains_within.exists() and list(DELETIONS.glob("*.json")) == []


# Discard


def test_discard_ends_the_whole_group_and_deletes(worker, monkeypatch):
    monkeypatch.setattr("engine.runs.delete.end_now", lambda folder: end_now(folder, grace_s=0.3))
    folder = a_run()
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import os, signal, time;"
        " signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, close_fds=True)\n"
        "child.stdout.readline()\n"
        "update_state(folder, result={'child': child.pid})"
    )
    process = worker(folder, code)
    child = psutil.Process(read_state(folder).result["child"])
    told = discard(folder, freed(folder))
    assert told.checkpoints == ("checkpoint-4", "checkpoint-8")
    assert process.wait() == -signal.SIGTERM
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "a process of it is still writing"
    assert not folder.path.exists()


def queued(folder: Folder, before: dict | None) -> Folder:
    now = time.time()
    place = {"order": 1.0, "submitted_at": now, "seats": ["cpu"], "count": 1, "before": before}
    folder.queued.write_text(json.dumps(place))
    update_state(folder, status="queued", started_at=None, finished_at=None, submitted_at=now)
    return folder


def test_discarding_what_waits_takes_it_out_of_the_queue():
    folder = queued(a_run(), None)
    assert waiting() and not freed(folder).comes_back
    assert discard(folder) is not None
    assert waiting() == [] and not folder.path.exists()


def test_discarding_a_waiting_run_that_had_begun_before_destroys_nothing():
    folder = a_run(status="stopped")
    before = {"state": json.loads(folder.state.read_text()), "job": folder.job.read_text()}
    files = tree(folder.path)
    queued(folder, before)
    assert freed(folder).comes_back
    assert discard(folder) is None
    assert waiting() == [] and read_state(folder).status == "stopped" and tree(folder.path) == files
    assert refused(cancel, folder) == "queue.not_waiting"


# In the terminal


def test_in_the_terminal_somebody_has_to_agree(monkeypatch, capsys, worker):
    first, second = a_run(), a_run(SAVES / "m/lora/second")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    assert refused(runs, ["delete", first.name, "second"], "en") == "delete.needs_yes"
    told = capsys.readouterr().out
    assert first.name in told and second.name in told and "checkpoint-4, checkpoint-8" in told

    for answer, left in (("n", True), ("", True), ("y", False)):
        master, slave = os.openpty()
        os.write(master, f"{answer}\n".encode())
        monkeypatch.setattr(sys, "stdin", os.fdopen(slave))
        assert runs(["delete", first.name], "en") == (1 if left else 0)
        assert first.path.exists() == left
        os.close(master)
    assert refused(runs, ["delete", "second", "--force"], "en") == "unexpected_word"
    assert refused(runs, ["delete"], "en") == "run_name_missing"
    worker(second)
    assert refused(runs, ["delete", "second", "--yes"], "en") == "delete.alive"
    assert runs(["stop", "second", "--discard", "--yes"], "en") == 0
    assert not second.path.exists()
