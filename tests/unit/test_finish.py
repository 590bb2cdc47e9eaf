"""Who is told of a run's end, and what: an address, a command, in time or not at all, and never a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from engine.errors import Refused
from engine.options.jobs import PreflightJob, TrainJob
from engine.runs.finish import ending, finish_problems, on_finish_of
from engine.runs.folder import SAVES, Folder
from engine.runs.progress import watch
from engine.runs.read import read_state
from engine.runs.record import Recorder, update_state, write_job
from engine.runs.redact import Redactor
from engine.runs.start import start
from engine.work.finish import SETTLING_S, tell
from tests.unit.house import PROJECT

FACTS = {"status": "done", "run": "m/one", "loss": 1.5, "error": None}
TOKEN = "hf_" + "aB3dE6gH" * 4


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server():
    """An address, and what was posted to it; /slow never answers, /no refuses."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            if self.path == "/slow":
                time.sleep(20)
            self.send_response(500 if self.path == "/no" else 200)
            self.end_headers()

        def log_message(self, *given) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    threading.Thread(target=server.shutdown, daemon=True).start()


def python(code: str) -> str:
    return f"{sys.executable} -c {code!r}"


def a_run(on_finish: str, **state) -> Folder:
    folder = Folder(SAVES / "m" / "lora" / "one")
    folder.path.mkdir(parents=True, exist_ok=True)
    job = TrainJob.from_values({"dataset": "identity", "model_name_or_path": "/a/b/model", "on_finish": on_finish})
    write_job(folder, job, "en")
    update_state(folder, kind="train", started_at=100.0, **{"status": "running", **state})
    return folder


def guard(folder: Folder, **environment) -> subprocess.Popen:
    """The process that waits; what it prints is the run's log."""
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.work.finish", str(folder.path)], stdin=subprocess.PIPE, stdout=log,
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        )  # fmt: skip


def settle(process: subprocess.Popen) -> None:
    """Return when it has begun to wait: for two seconds it has computed nothing."""
    seen, now = -1.0, 0.0
    while now != seen or not now:
        seen = now
        time.sleep(2)
        now = sum(psutil.Process(process.pid).cpu_times()[:2])


def test_an_address_gets_the_facts(server):
    address, posted = server
    assert tell(f"{address}/hook/${{KEY}}", FACTS, {"KEY": "s3cret"}) == "HTTP 200"
    assert posted == [("/hook/s3cret", "application/json", FACTS)]
    with pytest.raises(OSError, match="500"):
        tell(f"{address}/no", FACTS, {})
    with pytest.raises(TimeoutError):
        tell(f"{address}/slow", FACTS, {}, timeout_s=0.3)


def test_a_command_has_the_facts_and_no_shell_reads_it():
    code = "import os, sys; print(os.environ['LATHE_STATUS'], repr(os.environ['LATHE_ERROR']), sys.argv[1:])"
    told = f"{python(code)} '$$(touch x)' ';' '`touch x`' ${{WHO}} $LATHE_LOSS"
    printed = tell(told, FACTS, {**os.environ, "WHO": "a b; c"})
    assert printed.strip() == "done '' ['$(touch x)', ';', '`touch x`', 'a b; c', '1.5']" and not Path("x").exists()


def test_a_command_that_takes_too_long_is_ended_with_its_children():
    child = "import time; time.sleep(600)"
    code = (
        f"import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "open('child', 'w').write(str(c.pid)); time.sleep(600)"
    )
    Path("code.py").write_text(code)
    with pytest.raises(TimeoutError):
        tell(f"{sys.executable} code.py", FACTS, os.environ, timeout_s=3)
    pid = int(Path("child").read_text())
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_command_that_fails_says_so():
    with pytest.raises(RuntimeError, match=r"exit code 3.*so it goes"):
        tell(python("print('so it goes'); raise SystemExit(3)"), FACTS, os.environ)
    with pytest.raises(FileNotFoundError):
        tell("no-such-program", FACTS, os.environ)


@pytest.mark.parametrize(
    ("told", "key"),
    [
        (None, None),
        ("https://example.org/hook", None),
        ("https://example.org/${HOOK}", None),
        ("true --status $LATHE_STATUS", None),
        ("https://example.org/${NO_SUCH}", "on_finish.variable"),
        ("https://user:password@example.org/", "on_finish.secret"),
        ("https://hooks.slack.com/services/T0000/B0000/abcdefgh", "on_finish.secret"),
        (f"curl -H 'Authorization: Bearer {TOKEN}' example.org", "on_finish.secret"),
        ("true 'open", "on_finish.unreadable"),
        ("true $", "on_finish.unreadable"),
        ("no-such-program x", "on_finish.program"),
        ("ftp://example.org", "on_finish.program"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(told, key):
    problems = finish_problems(TrainJob(on_finish=told), {"HOOK": "x"})
    assert [problem.key for problem in problems] == ([key] if key else [])
    assert all(TOKEN not in problem.text() and "password" not in problem.text() for problem in problems)
    assert all("${NAME}" in problem.text() for problem in problems if problem.key == "on_finish.secret")


def test_a_run_that_could_tell_nobody_is_not_started(workplace):
    (workplace / "model").mkdir()
    (workplace / "model" / "config.json").write_text("{}")
    job = TrainJob(model_name_or_path="model", dataset=("identity",), on_finish="no-such-program", output_dir="saves/x")
    with pytest.raises(Refused) as refused:
        start(job)
    assert "on_finish.program" in [problem.key for problem in refused.value.problems]
    assert not Path("saves").exists()


def test_a_preflight_tells_nobody():
    assert on_finish_of(TrainJob(on_finish="true")) == "true" and on_finish_of(PreflightJob(on_finish="true")) is None


def test_what_is_told():
    folder = a_run("true", status="failed", finished_at=160.0, error={"key": "disk_full", "facts": {"detail": TOKEN}})
    Recorder(folder).event(current_steps=4, total_steps=9, loss=1.25, eval_loss=2.0)
    facts = ending(folder, Redactor())
    assert facts["text"].startswith("Lathe: m/lora/one: Failed. The disk is full") and TOKEN not in json.dumps(facts)
    expected = {
        "status": "failed", "run": "m/lora/one", "folder": str(folder.path.absolute()), "model": "model", "step": 4,
        "total_steps": 9, "loss": 1.25, "eval_loss": 2.0, "seconds": 60.0, "finished_at": 160.0, "cause": "disk",
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "running"])
def test_it_waits_for_the_end_and_tells_of_every_kind(server, status):
    address, posted = server
    folder = a_run(f"{address}/${{SECRET_PATH}}")
    waiting = guard(folder, SECRET_PATH="path-of-secrets")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(SETTLING_S + 3 if status == "running" else 0.1)
    assert posted == []
    update_state(folder, status=status, finished_at=101.0)
    waiting.stdin.close()
    assert waiting.wait(30) == 0
    ((path, _, facts),) = posted
    assert path == "/path-of-secrets" and facts["status"] == {"running": "lost"}.get(status, status)
    assert read_state(folder).status == facts["status"]
    assert "HTTP 200" in folder.log.read_text() and "path-of-secrets" not in folder.log.read_text()


def test_its_failure_is_written_down_and_changes_nothing():
    folder = a_run(python("import os; print(os.environ['MY_TOKEN']); raise SystemExit(7)"), result={"kept": 1})
    waiting = guard(folder, MY_TOKEN="a secret that is printed")
    update_state(folder, status="done", finished_at=101.0)
    waiting.stdin.close()
    assert waiting.wait(30) == 1
    state = read_state(folder)
    assert (state.status, state.result, state.error) == ("done", {"kept": 1}, None)
    ((key, facts),) = watch(folder).warnings
    assert key == "on_finish.failed" and "exit code 7" in facts["detail"]
    whole = folder.log.read_text() + folder.events.read_text()
    assert "exit code 7" in folder.log.read_text() and "a secret that is printed" not in whole


def test_of_a_run_that_goes_on_already_nobody_is_told(server):
    address, posted = server
    folder = a_run(f"{address}/")
    waiting = guard(folder)
    settle(waiting)
    update_state(folder, status="done", started_at=200.0, finished_at=201.0)
    waiting.stdin.close()
    assert waiting.wait(30) == 0 and posted == []
