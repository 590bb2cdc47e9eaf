"""Work in a second process beside this one: what it gives, what it raises, and that it never outlives its use."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from engine.errors import Problem, Refused, UserError
from engine.runs.record import StopRequested
from engine.work.beside import beside

PROJECT = Path(__file__).resolve().parents[2]


def gone(pid: int) -> bool:
    """Whether a process ends; a zombie has."""
    for _ in range(1000):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_it_computes_in_another_process_while_this_one_goes_on(tmp_path):
    torch.ones(2000, 2000).sum()  # this process has threads by now, and the other one none of them

    def work():
        (tmp_path / "begun").touch()
        while not (tmp_path / "answer").exists():
            time.sleep(0.01)
        return os.getpid(), float(torch.ones(2000, 2000).sum())

    with beside(work) as result:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        (tmp_path / "answer").touch()
        pid, total = result()
    assert total == 4e6
    assert pid != os.getpid() and gone(pid)


ERRORS = [UserError("disk_full", detail="3 GB"), Refused([Problem("a", "b", {"c": 1})]), StopRequested(), KeyError("x"),
          OSError(28, "No space left on device")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_it_raises_is_raised_here(error):
    def work():
        raise error

    with pytest.raises(type(error)) as raised, beside(work) as result:
        result()
    assert raised.value.args == error.args
    assert vars(raised.value) == vars(error)


class NeedsMore(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def test_what_cannot_be_sent_is_told_by_its_words():
    def work():
        raise NeedsMore("the cause", 2)

    with pytest.raises(RuntimeError, match="NeedsMore: the cause"), beside(work) as result:
        result()


def test_who_kills_it_was_short_of_memory():
    with pytest.raises(MemoryError, match="killed"), beside(lambda: os.kill(os.getpid(), signal.SIGKILL)) as result:
        result()


def test_an_end_without_a_word_is_an_error():
    with pytest.raises(ChildProcessError, match="3"), beside(lambda: os._exit(3)) as result:
        result()


def test_it_ends_with_an_error_of_this_process(tmp_path):
    def work():
        (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "begun").touch()
        time.sleep(600)

    with pytest.raises(ZeroDivisionError), beside(work):
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        raise ZeroDivisionError
    assert gone(int((tmp_path / "pid").read_text()))


def test_it_ends_when_this_process_is_killed(tmp_path):
    code = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        "from engine.work.beside import beside\n"
        "with beside(lambda: (print(os.getpid(), flush=True), time.sleep(600))) as result:\n"
        "    result()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
    assert gone(pid)


def test_where_processes_cannot_be_forked_it_is_done_here(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with beside(os.getpid) as result:
        assert result() == os.getpid()
