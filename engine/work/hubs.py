"""Fetching a model or dataset from Hugging Face or ModelScope: a program of its own, which ``download.py`` listens to.

``python -m engine.work.hubs '{"name": …, "hub": …, "revision": …, "cache_dir": …}'`` writes one JSON object a line:
``done`` and ``total`` bytes twice a second, and at the end ``path``, or ``error`` with its ``facts``.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog.devices import memory_text
from engine.catalog.models import missing_in_folder
from engine.errors import UserError
from engine.work.veil import veil_output

HUBS = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
PAGES = {
    ("huggingface", "model"): "https://huggingface.co/{}",
    ("huggingface", "dataset"): "https://huggingface.co/datasets/{}",
    ("modelscope", "model"): "https://modelscope.cn/models/{}",
    ("modelscope", "dataset"): "https://modelscope.cn/datasets/{}",
}
REPORT_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Order:
    """What is to be fetched.

    Args:
        cache_dir: where the hub keeps it; None: its usual place.
        kind: "model" or "dataset".
        folder, subset: of a dataset, the part that is needed; None: all of it.
    """

    name: str
    hub: str
    revision: str = "main"
    cache_dir: str | None = None
    kind: str = "model"
    folder: str | None = None
    subset: str | None = None


@dataclass
class Progress:
    """How far a download is: set by the thread that downloads, read by the one that reports."""

    total: int = 0
    measure: Callable[[], int] = lambda: 0

    def message(self) -> dict[str, int]:
        return {"done": min(self.measure(), self.total), "total": self.total}


def carry_out(order: Order, say: Callable[[dict[str, Any]], None]) -> None:
    """Fetch it, and say all the while how far it is, at the end where it is or why not."""
    progress = Progress()
    download = from_modelscope if order.hub == "modelscope" else from_huggingface
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(download, order, progress)
        while not wait([task], REPORT_INTERVAL_S).done:
            say(progress.message())
    try:
        path = task.result()
        say(progress.message())
        say({"path": str(path)})
    except Exception as error:
        problem = error if isinstance(error, UserError) else as_user_error(error, order)
        traceback.print_exception(error)
        say({"error": problem.key, "facts": {key: str(value) for key, value in problem.facts.items()}})


def from_huggingface(order: Order, progress: Progress) -> Path:
    """Raises: UserError, and whatever huggingface_hub and its HTTP library raise."""
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

    cache = Path(order.cache_dir or constants.HF_HUB_CACHE).expanduser()
    where = {"repo_id": order.name, "repo_type": order.kind, "revision": order.revision, "cache_dir": cache}
    found = {"cache_dir": cache, "repo_type": order.kind}
    try:
        info = HfApi().repo_info(order.name, repo_type=order.kind, revision=order.revision, files_metadata=True)
    except Exception as error:
        known = {"allow_patterns": "config.json"} if order.kind == "model" else {}
        return _from_cache(error, order, lambda: snapshot_download(**where, **known, local_files_only=True))
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = _wanted(sizes, order, info.card_data)
    here = sum(sizes[name] for name in wanted if try_to_load_from_cache(order.name, name, revision=info.sha, **found))
    blobs = cache / f"{order.kind}s--{order.name.replace('/', '--')}" / "blobs"
    partly = _size(blobs, "*.incomplete")
    others = _size(blobs, "*") - partly - here  # of other revisions
    progress.total = sum(sizes[name] for name in wanted)
    progress.measure = lambda: _size(blobs, "*") - others
    _check_space(order, cache, progress.total - here - partly)
    return _complete(snapshot_download(**where, allow_patterns=[_literally(name) for name in wanted]), order)


def from_modelscope(order: Order, progress: Progress) -> Path:
    """Raises: UserError, and whatever modelscope and its HTTP library raise."""
    # Not modelscope itself, whose every import loads torch: this is the part of it that downloads.
    try:
        from modelscope_hub import HubApi, ProgressCallback
        from modelscope_hub.compat import snapshot_download
    except ImportError as error:
        raise UserError("download.hub_missing") from error

    arrived: list[int] = []

    class Arrived(ProgressCallback):
        def update(self, size: int) -> None:
            arrived.append(size)

    revision = "master" if order.revision == "main" else order.revision
    where = {"repo_id": order.name, "repo_type": order.kind, "revision": revision, "cache_dir": order.cache_dir}
    try:
        files = HubApi().list_repo_files(order.name, order.kind, revision=revision)
    except Exception as error:
        return _from_cache(error, order, lambda: snapshot_download(**where, local_files_only=True))
    sizes = {file.path: file.size or 0 for file in files if file.type != "tree"}
    wanted = _wanted(sizes, order)
    progress.total = sum(sizes[name] for name in wanted)
    progress.measure = lambda: sum(arrived)
    patterns = [_literally(name) for name in wanted]
    return _complete(snapshot_download(**where, allow_patterns=patterns, progress_callbacks=[Arrived]), order)


def needed_files(names: Iterable[str]) -> list[str]:
    """The files of a repository that loading its model takes: texts, and the weights in one format.

    Safetensors rather than PyTorch's .bin, which can hold code; no other formats, no variants, no folders.
    """
    top = [name for name in names if "/" not in name]
    kinds = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.py", "LICENSE*", "README.md")
    texts = [name for name in top if any(fnmatch.fnmatch(name, kind) for kind in kinds)]
    weights = [name for name in top if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    weights = weights or [name for name in top if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name)]
    other = [name for name in texts if name.endswith(".index.json") and not _is_index_of(name, weights)]
    return [name for name in texts if name not in other] + weights


def _is_index_of(index: str, weights: list[str]) -> bool:
    stem, suffix = index.removesuffix(".index.json").rsplit(".", 1)
    return any(name.startswith(f"{stem}-") and name.endswith(f".{suffix}") for name in weights)


DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst", ".bz2", ".xz", ".zip")


def data_files(names: Iterable[str], folder: str | None = None, patterns: Iterable[str] = ()) -> list[str]:
    """The files of a repository that reading its dataset takes: rows, and the README that says which are which.

    Args:
        folder: only the rows below it.
        patterns: only rows of files whose names fit one of these.
    """
    rows = [name for name in names if name.lower().endswith(DATA_SUFFIXES)]
    rows = [name for name in rows if not folder or name.startswith(folder.strip("/") + "/")]
    patterns = [pattern.removeprefix("./").replace("**/", "*") for pattern in patterns]
    rows = [name for name in rows if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in names if name == "README.md"] + rows


def _patterns_of(card: Any, subset: str | None) -> list[str]:
    """Which files hold a subset, by what its README says of it; none, when it says nothing."""
    configs = (card.get("configs") if card and subset else None) or []
    files = next((config.get("data_files") for config in configs if config.get("config_name") == subset), None) or []
    files = [files] if isinstance(files, str | dict) else files
    paths = [file["path"] if isinstance(file, dict) else file for file in files]
    return [pattern for path in paths for pattern in ([path] if isinstance(path, str) else path)]


def _wanted(sizes: dict[str, int], order: Order, card: Any = None) -> list[str]:
    if order.kind == "dataset":
        wanted = data_files(sizes, order.folder, _patterns_of(card, order.subset))
        if not [name for name in wanted if name != "README.md"]:
            raise UserError("download.no_rows", name=order.name, hub=HUBS[order.hub])
        return wanted
    wanted = needed_files(sizes)
    if not any(name.endswith((".safetensors", ".bin")) for name in wanted):
        raise UserError("download.no_weights", name=order.name, hub=HUBS[order.hub])
    return wanted


def _from_cache(error: Exception, order: Order, find: Callable[[], str]) -> Path:
    """What was downloaded before, when the hub cannot be asked; where there is nothing, the error of the hub."""
    if key_of(error) != "download.no_network":
        raise error
    try:
        path = Path(find())
    except Exception as nothing:
        raise error from nothing
    if order.kind == "model" and missing_in_folder(path):
        raise error
    return path


def _complete(folder: str, order: Order) -> Path:
    missing = missing_in_folder(Path(folder)) if order.kind == "model" else None
    if missing:
        raise UserError("model_folder_incomplete", path=folder, missing=missing)
    return Path(folder)


# By the names of classes, since both libraries changed the modules of theirs, and of their HTTP library, within a year.
KEYS = {
    "GatedRepoError": "download.gated",
    "PermissionDeniedError": "download.gated",
    "AuthenticationError": "download.gated",
    "RevisionNotFoundError": "download.revision_missing",
    "RepositoryNotFoundError": "download.not_found",
    "NotExistError": "download.not_found",
    "OfflineModeIsEnabled": "download.no_network",
    "TransportError": "download.no_network",
    "ConnectionError": "download.no_network",
    "TimeoutError": "download.no_network",
}


def key_of(error: BaseException) -> str:
    names = {each.__name__ for cause in _causes(error) for each in type(cause).__mro__}
    return next((key for name, key in KEYS.items() if name in names), "download.failed")


def as_user_error(error: BaseException, order: Order) -> UserError:
    """What a hub's library raised, as a sentence for the user."""
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in _causes(error)):
        return UserError("disk_full", detail=error)
    key = key_of(error)
    if key == "download.not_found" and order.kind == "dataset":
        key = "download.dataset_not_found"
    first_line = next(iter(str(error).strip().splitlines()), "")
    return UserError(
        key,
        name=order.name,
        hub=HUBS[order.hub],
        revision=order.revision,
        token=TOKENS[order.hub],
        url=PAGES[order.hub, order.kind].format(order.name),
        detail=f"{type(error).__name__}: {first_line}",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_space(order: Order, folder: Path, needed_bytes: int) -> None:
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free_bytes = shutil.disk_usage(there).free
    if needed_bytes > free_bytes:
        sizes = {"needed": memory_text(needed_bytes), "free": memory_text(free_bytes)}
        raise UserError("download.disk_full", name=order.name, path=folder, **sizes)


def _size(folder: Path, pattern: str) -> int:
    """Bytes that the files of a folder take on the disk; one that vanishes meanwhile counts for nothing."""
    total = 0
    for path in folder.glob(pattern):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _literally(name: str) -> str:
    """A pattern that fits just this name."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _main(order: Order) -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print goes to the log

    def say(message: dict[str, Any]) -> None:
        try:
            print(json.dumps(message), file=channel, flush=True)
        except BrokenPipeError:
            os._exit(1)  # nobody waits for the model any more, and the libraries' threads would go on

    carry_out(order, say)


if __name__ == "__main__":
    veil_output()
    _main(Order(**json.loads(sys.argv[1])))
