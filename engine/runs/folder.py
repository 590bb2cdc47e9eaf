"""Where everything of a run lies: the only place in which a run's file names are spelled."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.runs.checkpoints import is_complete, numbered

SAVES = Path("saves")
"""Runs are listed below this folder of the working directory; one elsewhere leaves a link in ``saves/elsewhere``."""
QUEUE = SAVES / ".queue"
"""What the waiting runs have in common: who sits on which device, whether the queue is paused, its locks."""
TALKS = SAVES / ".talks"
"""Conversations on the page, each under a name that only its browser knows."""
DELETIONS = SAVES / ".deletions"
"""A note of each deletion that has begun; it goes with the last of what it deletes."""


@dataclass(frozen=True)
class Folder:
    """The folder of one run (a training, an export, a conversion, a loaded chat model).

    Args:
        may_have_notes: False where a look at its names has shown that there are none: so nobody tries to open them.
    """

    path: Path
    may_have_notes: bool = field(default=True, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How a person refers to the run: its path below ``saves``, or the whole path when it lies elsewhere."""
        try:
            return self.path.relative_to(SAVES.absolute() if self.path.is_absolute() else SAVES).as_posix()
        except ValueError:
            return str(self.path)

    @property
    def job(self) -> Path:
        """What was asked: ``kind``, ``options``; YAML, written once by ``start``."""
        return self.path / "job.yaml"

    @property
    def state(self) -> Path:
        """Where it stands; JSON, replaced atomically."""
        return self.path / "state.json"

    @property
    def events(self) -> Path:
        """All that happened; one JSON object a line, append only."""
        return self.path / "trainer_log.jsonl"

    @property
    def log(self) -> Path:
        """What the worker printed, tracebacks included."""
        return self.path / "running_log.txt"

    @property
    def lock(self) -> Path:
        """Locked by the worker for as long as it lives."""
        return self.path / ".lock"

    @property
    def stop_request(self) -> Path:
        """Exists once somebody has asked the run to stop."""
        return self.path / "stop_requested"

    @property
    def queued(self) -> Path:
        """Where a run that waits stands in line; JSON, there until it has been started."""
        return self.path / "queued.json"

    @property
    def address(self) -> Path:
        """Where a chat worker listens, and its key; readable by the owner only."""
        return self.path / "address.json"

    @property
    def chat_template(self) -> Path:
        """The chat template that a server was started with, where that is not the model's own; Jinja."""
        return self.path / "chat_template.jinja"

    @property
    def training_args(self) -> Path:
        """The options of a training run as plain YAML that ``train`` takes as it is."""
        return self.path / "training_args.yaml"

    @property
    def results(self) -> Path:
        return self.path / "all_results.json"

    @property
    def loss_plot(self) -> Path:
        return self.path / "training_loss.png"

    @property
    def card(self) -> Path:
        """The run card: what was done, with what, and what came out; Markdown, written when a training ends."""
        return self.path / "RUN.md"

    @property
    def ladder(self) -> Path:
        """What checkpoints answered to ``ladder_prompts``; one JSON object a line, append only."""
        return self.path / "ladder.jsonl"

    @property
    def votes(self) -> Path:
        """Which of two answers people found better, one of them this run's; one JSON object a line, append only."""
        return self.path / "votes.jsonl"

    @property
    def rows(self) -> Path:
        """Encoded rows, kept until the run has ended well."""
        return self.path / ".rows"

    @property
    def report(self) -> Path:
        """What a check of a dataset found, in short; JSON."""
        return self.path / "report.json"

    @property
    def findings(self) -> Path:
        """All that it found; one JSON object a line."""
        return self.path / "findings.jsonl"

    @property
    def lengths(self) -> Path:
        """Tokens of every row, as ``engine.catalog.lengths`` reads them."""
        return self.path / "lengths.json"

    @property
    def rejects(self) -> Path:
        """Rows that cannot be learned or repeat another, with the reasons."""
        return self.path / "rejects.jsonl"

    @property
    def clean(self) -> Path:
        """All other rows, as they were."""
        return self.path / "clean.jsonl"

    @property
    def predictions(self) -> Path:
        """What an evaluation's model answered, with label and scores; one JSON object a line."""
        return self.path / "generated_predictions.jsonl"

    @property
    def predict_results(self) -> Path:
        """The scores of those answers; JSON."""
        return self.path / "predict_results.json"

    @property
    def row_losses(self) -> Path:
        """Loss of each row of an evaluation; one JSON object a line."""
        return self.path / "row_losses.jsonl"

    @property
    def measured_with(self) -> Path:
        """What the lines of an evaluation depend on, so that none is taken over from another one; JSON."""
        return self.path / ".measured_with.json"

    @property
    def notes(self) -> Path:
        """Title and note that people gave the run; JSON, there while it has one of them. A worker never writes it."""
        return self.path / "notes.json"

    @property
    def notes_lock(self) -> Path:
        """Locked by whoever changes the notes."""
        return self.path / ".notes.lock"

    @property
    def remains(self) -> Path:
        """Where a run lies while it is being deleted: beside its folder, where no run is looked for."""
        return self.path.with_name(f".deleted-{self.path.name}")

    @property
    def remains_within(self) -> Path:
        """The same for what is taken out of a folder that stays, because there is more in it than the run."""
        return self.path / ".deleted"

    @property
    def saving(self) -> Path:
        """What is being saved and has not yet its name."""
        return self.path / ".saving"

    def checkpoints(self) -> list[Path]:
        """Complete ``checkpoint-N`` folders, the earliest first; damaged ones and those cut off in mid-save are not."""
        return [path for path in numbered(self.path) if is_complete(path)]


def model_label(model: str | None) -> str:
    """The last part of a model's path or hub id, fit for a folder's name."""
    last = re.sub(r"[^\w.\-]+", "_", Path(model or "").name)
    return last.lstrip(".") or "model"  # a name that begins with a dot is hidden, or leads out of the folder


_NEW = re.compile(r"[a-z]+_\d{4}(-\d\d){5}(-\d+)?")


def is_new_folder(path: Path) -> bool:
    """Whether a path is one that :func:`new_folder` gives, so that nobody but us had anything there before."""
    try:
        below = path.resolve().relative_to(SAVES.resolve())
    except ValueError:
        return False
    return len(below.parts) == 3 and _NEW.fullmatch(below.name) is not None


def new_folder(kind: str, model: str | None, method: str) -> Folder:
    """A path for a new run that nothing uses yet: ``saves/<model>/<method>/<kind>_<time>``. Nothing is created."""
    stem = SAVES / model_label(model) / method / f"{kind}_{time.strftime('%Y-%m-%d-%H-%M-%S')}"
    path, count = stem, 1
    while path.exists():
        count += 1
        path = stem.with_name(f"{stem.name}-{count}")
    return Folder(path)


def find_folder(name: str) -> Folder:
    """The run that a person means by ``name``: a name below ``saves``, a path, the last part of either, or a title.

    Raises:
        LookupError: no run, or more than one, has that name; the candidates are its arguments.
    """
    from engine.runs.notes import titled  # that file stands on this one

    for path in (Path(name), SAVES / name):
        if os.path.isfile(Folder(path).state):  # a title may be longer than a path can be: pathlib fails at that
            return Folder(path)
    matches = [folder for folder in all_folders() if folder.path.name == Path(name).name] or titled(name)
    if len(matches) == 1:
        return matches[0]
    raise LookupError(*[folder.name for folder in matches])


def all_folders() -> list[Folder]:
    """Every run below ``saves``, and those elsewhere that left a link there; in no particular order."""
    return [folder for folder, _ in _runs_below(SAVES)]


def folders_in_line() -> list[Folder]:
    """Those of all runs that have a place in the queue; found by names alone, without opening a file."""
    return [folder for folder, names in _runs_below(SAVES) if folder.queued.name in names]


def folders_with_notes() -> list[Folder]:
    """Those of all runs that somebody gave a title or a note; found by names alone too."""
    return [folder for folder in all_folders() if folder.may_have_notes]


def _runs_below(path: Path) -> Iterator[tuple[Folder, set[str]]]:
    """Each run with the names in its folder. Links are followed; within a run no other is looked for."""
    try:
        with os.scandir(path) as entries:
            found = {entry.name: entry for entry in entries}
    except OSError:
        return  # no folder, not there yet, deleted meanwhile, or not ours to read
    if "state.json" in found:
        yield Folder(path, may_have_notes=Folder(path).notes.name in found), set(found)
        return
    for name, entry in found.items():
        if not name.startswith(("checkpoint-", ".")) and (entry.is_symlink() or entry.is_dir()):
            yield from _runs_below(path / name)
