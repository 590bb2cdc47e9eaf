"""Work that a second process does while this one goes on: on another core, and not held up by what this one imports."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from engine.runs.record import StopRequested

Result = TypeVar("Result")


@contextmanager
def beside(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Begin ``work`` in a process forked from this one, and give a function that waits for what it returns.

    The other process computes in one thread, since those of this one are not forked with it, and may use no GPU. It
    ends with the body, and when this process is killed. Where processes cannot safely be forked, on all systems but
    Linux, ``work`` is done here when it is asked for.

    Args:
        work: what it returns and raises is pickled.

    The function given raises what ``work`` raised, and MemoryError if the process was killed: nobody else but a system
    that is short of memory does so.
    """
    if sys.platform != "linux":
        yield work
        return
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_do, args=(work, sender), daemon=True)
    try:
        process.start()
        sender.close()
        yield lambda: _result(process, receiver)
    finally:
        if process.pid:
            process.kill()
            process.join()
        receiver.close()


def _result(process: Any, receiver: Connection) -> Any:
    try:
        error, result = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            raise MemoryError("the process beside this one was killed") from None
        raise ChildProcessError(f"the process beside this one ended with {process.exitcode}") from None
    process.join()
    if error is not None:
        raise error
    return result


def _do(work: Callable[[], Any], sender: Connection) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    try:
        answer = None, work()
    except (StopRequested, KeyboardInterrupt) as stop:
        answer = stop, None
    except BaseException as error:  # the parent says what has become of it
        traceback.print_exc()
        answer = _portable(error), None
    sender.send(answer)


def _portable(error: BaseException) -> BaseException:
    """The error, or where another process cannot be told of it as it is, what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def end_with_parent() -> None:
    """End this process when the one that started it is gone: a worker that is killed cannot end its processes."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
