"""``api``: serves a model until it is interrupted. The address and an example go to the standard output."""

from __future__ import annotations

import os
import signal
import time

from engine.errors import UserError
from engine.options.jobs import ApiJob
from engine.runs import vllm
from engine.runs.api import KEY, key_in, refuse_open_door
from engine.runs.chat import failure, load, unload
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.words import words
from terminal.chat import note, show_loading

INTERVAL_S = 0.5


def api(job: ApiJob, language: str) -> int:
    """Load a model and serve it; when this returns, the model's memory is free.

    Returns:
        Exit code: 0 ended by Ctrl-C while it served, 1 failed, 130 interrupted before it served.

    Raises:
        UserError: the door would be open to everybody, or vLLM cannot do the job.
    """
    refuse_open_door(job, os.environ)
    if job.api_engine == "vllm":
        vllm.check(job)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's way to press Ctrl-C
    folder = load(job, language, owner_pid=os.getpid())
    serves = False
    try:
        show_loading(folder, language)
        serves = True
        _introduce(folder, language)
        while not read_state(folder).has_ended:
            time.sleep(INTERVAL_S)
        raise failure(folder)
    except UserError as error:
        note(error.text(language))
        note(words("cli.log_is_in", language, path=folder.log))
        return 1
    except KeyboardInterrupt:
        return 0 if serves else 130
    finally:
        unload(folder)


def _introduce(folder: Folder, language: str) -> None:
    """Say where it listens, and how to try it."""
    served = read_state(folder).result
    print(words("api.address", language, url=served["url"], model=served["name"]))
    print(words("api.with_key" if key_in(os.environ) else "api.without_key", language, variable=KEY))
    print("\n".join(["", *_example(served["url"], served["name"]), ""]))
    print(words("api.ends", language), flush=True)


def _example(url: str, name: str) -> list[str]:
    said = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
    key = [f'  -H "Authorization: Bearer ${KEY}" \\'] if key_in(os.environ) else []
    return [f"curl {url}/chat/completions \\", '  -H "Content-Type: application/json" \\', *key, f"  -d '{said}'"]
