"""Waits for the end of a run and tells of it: a POST to an address, or a command. A process of its own.

It outlives the worker, so it tells also of one that was killed. Whatever goes wrong here is written into the log, and
changes nothing about how the run has ended.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from engine.runs.finish import ADDRESS, ending, names_in, on_finish_of
from engine.runs.folder import Folder
from engine.runs.read import State, read_job, read_state
from engine.runs.record import Recorder
from engine.runs.redact import Redactor, secrets_of

TIMEOUT_S = 60.0
"""For all of it; then it is ended."""
SETTLING_S = 3.0
"""Whoever killed a worker records that it was stopped a moment later."""
SHOWN = 2000
"""So many characters at the end of what a command prints are kept in the log."""


def main(path: str) -> int:
    """Wait until the standard input ends, as it does with the worker, and tell. Returns the exit code."""
    folder = Folder(Path(path))
    begun = read_state(folder).started_at
    sys.stdin.buffer.read()
    told = on_finish_of(read_job(folder)) or ""
    redactor = Redactor([*secrets_of(os.environ), *(os.environ.get(name, "") for name in names_in(told))])
    try:
        state = _settled(folder)
        if state.started_at != begun or not state.has_ended:
            print("on_finish: the run goes on already; nobody is told.", flush=True)
            return 0
        output = tell(told, ending(folder, redactor), os.environ)
    except Exception as error:
        detail = redactor.redact(f"{type(error).__name__}: {error}")
        print(redactor.redact(traceback.format_exc()), flush=True)
        Recorder(folder).warn("on_finish.failed", detail=detail)
        return 1
    print(f"on_finish: done. {redactor.redact(output)}".strip(), flush=True)
    return 0


def tell(told: str, facts: dict[str, Any], environment: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> str:
    """POST the facts as JSON to an address, or run a command that has them as ``LATHE_…`` in its environment.

    Args:
        told: an address or a command line; ``${NAME}`` stands for a variable of the environment. No shell reads it.
        facts: as ``ending`` gives them.

    Returns:
        What the other side answered, or printed.

    Raises:
        TimeoutError: it took longer than ``timeout_s``.
        OSError: the other side cannot be reached, refuses, or the command cannot be started.
        RuntimeError: the command failed.
    """
    names = {f"LATHE_{name.upper()}": "" if value is None else str(value) for name, value in facts.items()}
    known = {**environment, **names}
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        if ADDRESS.match(told):
            return _post(Template(told).substitute(known), facts)
        return _run([Template(word).substitute(known) for word in shlex.split(told)], known)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _post(address: str, facts: dict[str, Any]) -> str:
    headers = {"Content-Type": "application/json", "User-Agent": "Lathe"}
    request = urllib.request.Request(address, json.dumps(facts).encode("utf-8"), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return f"HTTP {answer.status}"


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    process = subprocess.Popen(
        command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.wait()
        raise
    text = output.decode("utf-8", errors="replace")[-SHOWN:]
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with exit code {process.returncode}. {text}".strip())
    return text


def _settled(folder: Folder) -> State:
    """The state once it is final: of a killed worker nobody may ever say more than that it is lost."""
    deadline = time.monotonic() + SETTLING_S
    state = read_state(folder)
    while (state.status == "lost" or not state.has_ended) and time.monotonic() < deadline:
        time.sleep(0.1)
        state = read_state(folder)
    return state


def _too_late(number: int, frame: Any) -> None:
    raise TimeoutError("it took too long and was ended")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
