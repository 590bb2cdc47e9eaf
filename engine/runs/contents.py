"""Which files in a run's folder Lathe has written. All others are somebody's own, and no deletion may touch them.

A run in a folder that was made for it is known by names. One whose ``output_dir`` points anywhere may lie among the
user's files, and there a name like ``README.md`` says nothing: it must also have been written while the run went on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from engine.runs.checkpoints import MANIFEST
from engine.runs.folder import Folder, is_new_folder
from engine.runs.read import read_events, read_state

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken",
    "chat_template.*", "chat_templates",
)  # fmt: skip
RESULTS = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md", "config.json",
    "generation_config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
    "pytorch_model*.bin", "pytorch_model.bin.index.json", "trainer_state.json", "training_args.bin",
    "train_results.json", "eval_results.json", "*preprocessor_config.json", "processor_config.json",
    *TOKENIZER_FILES,
)  # fmt: skip
"""What a training leaves beside the files that ``Folder`` names."""
SLACK_S = 2.0
"""A file system may round times."""

Test = Callable[[PurePosixPath, os.DirEntry], bool]


@dataclass(frozen=True)
class Contents:
    """Paths relative to the folder.

    Args:
        pieces: all that is ours: whole entries where nothing else is in them, else single files. Neither the state,
            which goes first of all, nor the lock, which goes last.
        foreign: what is not, each folder as one, with a slash at its end.
        size_bytes, files: of what is ours.
    """

    pieces: tuple[str, ...]
    foreign: tuple[str, ...]
    size_bytes: int
    files: int


def contents(folder: Folder) -> Contents:
    """Sort a run's folder. Links are never followed, and never ours: we make none."""
    root = folder.path.resolve()
    test = _test(folder, root)
    pieces: list[str] = []
    foreign: list[str] = []
    size_bytes = files = 0
    own = Folder(root)
    for entry in _entries(root):
        ours, others = _sorted_out(entry, PurePosixPath(entry.name), test)
        files += len(ours)
        size_bytes += sum(size for _, size in ours)
        foreign += others
        if entry.name not in (own.state.name, own.lock.name):
            is_whole = not others and (ours or _is_folder_of_ours(entry))
            pieces += [entry.name] if is_whole else [path for path, _ in ours]
    return Contents(tuple(pieces), tuple(sorted(foreign)), size_bytes, files)


def _sorted_out(entry: os.DirEntry, path: PurePosixPath, test: Test) -> tuple[list[tuple[str, int]], list[str]]:
    """Files of ours with their sizes, and what is not ours."""
    if entry.is_file(follow_symlinks=False):
        try:
            size_bytes = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return [], []  # a living run replaces its files
        return ([(str(path), size_bytes)], []) if test(path, entry) else ([], [str(path)])
    if not entry.is_dir(follow_symlinks=False):
        return [], [str(path)]
    if len(path.parts) == 1 and not _is_folder_of_ours(entry):
        return [], [f"{path}/"]  # a whole tree of somebody's own need not be walked through
    ours, others = [], []
    for each in _entries(Path(entry.path)):
        found, strange = _sorted_out(each, path / each.name, test)
        ours += found
        others += strange
    return ours, others if ours or not others else [f"{path}/"]


def _is_folder_of_ours(entry: os.DirEntry) -> bool:
    """Whether a folder's name is one that we give; what is in it may still be somebody else's."""
    own = (".rows", ".saving", "runs", "ranks", "nodes", "chat_templates")
    return entry.is_dir(follow_symlinks=False) and (entry.name in own or _CHECKPOINT.fullmatch(entry.name) is not None)


def _test(folder: Folder, root: Path) -> Test:
    """What says of a file whether it is ours."""
    is_new = is_new_folder(root)
    kind = read_state(folder).kind
    begin, end = _times(folder)
    always, named = _names(Folder(root), kind)
    manifests: dict[str, set[str] | None] = {}

    def is_dated(entry: os.DirEntry) -> bool:
        if is_new:
            return True
        return begin is not None and begin - SLACK_S <= entry.stat(follow_symlinks=False).st_mtime <= end + SLACK_S

    def is_ours(path: PurePosixPath, entry: os.DirEntry) -> bool:
        top, *below = path.parts
        if not below:
            name = _TEMPORARY.sub("", top)
            if name in always:
                return True
            return (name in named or any(fnmatch(name, each) for each in RESULTS)) and is_dated(entry)
        if _CHECKPOINT.fullmatch(top):
            if top not in manifests:
                manifests[top] = _listed(root / top)
            listed = manifests[top]
            return is_new if listed is None else str(PurePosixPath(*below)) in listed
        if top in ("ranks", "nodes"):
            is_numbered = below[0].isdigit() and len(below) > 1
            return is_numbered and (below[1] in always | named | {".rows", ".saving"})
        if top == "runs":
            return path.name.startswith("events.out.tfevents")
        if top == "chat_templates":
            return path.suffix == ".jinja" and is_dated(entry)
        return True  # in .rows and .saving

    return is_ours


def _names(folder: Folder, kind: str) -> tuple[set[str], set[str]]:
    """Names that nobody else gives, and those that a run of this kind gives but others may too."""
    always = (
        folder.job, folder.state, folder.events, folder.log, folder.lock, folder.stop_request, folder.queued,
        folder.notes, folder.notes_lock,
    )  # fmt: skip
    of_kind = {
        "chat": (folder.address,),
        "api": (folder.chat_template,),
        "eval": (
            folder.results,
            folder.predictions,
            folder.predict_results,
            folder.row_losses,
            folder.measured_with,
        ),
        "data": (folder.report, folder.findings, folder.lengths, folder.rejects, folder.clean),
    }
    trained = (folder.training_args, folder.results, folder.loss_plot, folder.card, folder.ladder, folder.votes)
    return {path.name for path in always}, {path.name for path in of_kind.get(kind, trained)}


def _times(folder: Folder) -> tuple[float | None, float]:
    """From the first thing that was noted of the run to the last, in seconds since 1970."""
    state = read_state(folder)
    first = next((event["time"] for event in read_events(folder)[0] if "time" in event), None)
    begins = [each for each in (first, state.started_at, state.submitted_at) if each]
    ends = [path.stat().st_mtime for path in (folder.events, folder.log) if path.is_file()]
    return min(begins, default=None), max([*ends, state.finished_at or 0.0])


def _listed(checkpoint: Path) -> set[str] | None:
    """The files that a checkpoint's list names; None: it has none, and so another program may have written it."""
    try:
        return {MANIFEST, *json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        return None


def _entries(path: Path) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(path) as found:
            yield from sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # a living run removes its older checkpoints


_CHECKPOINT = re.compile(r"checkpoint-\d+")
_TEMPORARY = re.compile(r"\.\d+\.tmp$")
