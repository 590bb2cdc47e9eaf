"""Uploading a folder to Hugging Face or ModelScope: a program of its own, which ``upload.py`` listens to.

``python -m engine.work.hub_upload '{"name": …, "hub": …, "folder": …, "is_private": …}'`` writes one JSON object a
line: ``done`` and ``total`` bytes, and at the end ``address`` or ``error``. The token comes from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.work.hubs import PAGES, TOKENS

MESSAGE = "Upload a model merged with Lathe"


@dataclass(frozen=True)
class Order:
    """What goes where."""

    name: str
    hub: str
    folder: str
    is_private: bool

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in Path(self.folder).rglob("*") if path.is_file())


Say = Callable[[int], None]
"""Is told how many bytes are done."""


def to_huggingface(order: Order, token: str, say: Say) -> None:
    """Large files one after the other, which the hub keeps; then all of them in one commit, so it shows all or nothing.

    Raises: whatever huggingface_hub and its HTTP library raise.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    name = api.create_repo(order.name, private=order.is_private, exist_ok=True).repo_id
    root = Path(order.folder)
    added = [CommitOperationAdd(path.relative_to(root).as_posix(), path) for path in order.files]
    done = 0
    for each in added:
        api.preupload_lfs_files(name, additions=[each], free_memory=False)
        done += each.upload_info.size
        say(done)
    api.create_commit(name, operations=added, commit_message=MESSAGE)


def to_modelscope(order: Order, token: str, say: Say) -> None:
    """Raises: whatever modelscope and its HTTP library raise."""
    from modelscope_hub import HubApi

    api = HubApi(token=token)
    if not api.repo_exists(order.name, "model"):
        api.create_repo(order.name, "model", visibility="private" if order.is_private else "public")
    api.upload_folder(
        order.name, "model", order.folder, commit_message=MESSAGE, use_cache=False, disable_tqdm=True,
        progress_callback=lambda facts: say(facts["committed_bytes"]),
    )  # fmt: skip


def main(order: Order, say: Callable[[dict[str, Any]], None]) -> int:
    total = sum(path.stat().st_size for path in order.files)
    send = to_modelscope if order.hub == "modelscope" else to_huggingface
    token = os.environ[TOKENS[order.hub]]
    try:
        send(order, token, lambda done: say({"done": min(done, total), "total": total}))
    except Exception as error:
        print(traceback.format_exc().replace(token, "…"), file=sys.stderr)
        first_line = next(iter(str(error).strip().splitlines()), "")
        say({"error": f"{type(error).__name__}: {first_line}".replace(token, "…")})
        return 1
    say({"address": PAGES[order.hub, "model"].format(order.name)})
    return 0


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print goes to the log
    sys.exit(
        main(Order(**json.loads(sys.argv[1])), lambda message: print(json.dumps(message), file=channel, flush=True))
    )
