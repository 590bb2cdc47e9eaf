"""Why a run ended as it did: the kind of its cause, its sentence, what to do, and the last lines of its log."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.runs.folder import Folder
from engine.runs.read import read_log, read_state
from engine.runs.resume import why_not_resumable
from engine.words import has_words, words

LOG_LINES = 12
LOST = "lost"
"""Stands for the error of a run that is gone without a word."""
OF_TRAINING = ("memory", "precision", "killed")
"""Kinds whose advice is about training."""
SAME_AGAIN = ("memory", "precision", "options")
"""Kinds after which a run that simply goes on would end the same way again."""
SAID = (
    ("download", r"ConnectionError|ConnectTimeout|ReadTimeout|HTTPError|SSLError|Max retries exceeded|OfflineMode"),
    ("disk", r"PermissionError|Read-only file system|Input/output error|Disk quota|Too many open files"),
    ("machine", r"CUDA error|CUDA driver|cuDNN|cuBLAS|NCCL|no kernel image|ModuleNotFoundError|ImportError|\.so\b"),
    ("precision", r"not implemented for '(Half|BFloat16)'|FloatingPointError"),
)  # fmt: skip
"""What the text of an error that nobody foresaw gives away; the first kind that fits counts."""


@dataclass(frozen=True)
class Cause:
    """Why a run failed, or is lost.

    Args:
        kind: a key of causes.yaml, "memory" for example; ``causes.<kind>`` in the locales has its words.
        error: key and facts of its sentence; the key may be one that only another version knows.
        name: of the run, as it is typed.
        is_training: of a run of another kind nothing is said that only a training can do.
        can_resume: whether the run can go on from its last checkpoint.
    """

    kind: str
    error: dict[str, Any]
    name: str
    is_training: bool
    can_resume: bool

    def label(self, language: str) -> str:
        return words(f"causes.{self.kind}.label", language)

    def sentence(self, language: str) -> str:
        if self.error["key"] == LOST:
            return words("causes.lost", language)
        facts = {"detail": "", **(self.error.get("facts") or {})}
        key = self.error["key"] if has_words(f"errors.{self.error['key']}") else "unexpected"
        try:
            return words(f"errors.{key}", language, **facts)
        except KeyError:  # of another version
            return f"{key}: " + ", ".join(f"{name}={value}" for name, value in facts.items())

    def advice(self, language: str) -> str:
        """What to do, beyond what the sentence itself says; may be empty."""
        if self.kind in OF_TRAINING and not self.is_training:
            return ""
        said = [words(f"causes.{self.kind}.advice", language, name=self.name)]
        if self.can_resume and self.kind not in SAME_AGAIN:
            said.append(words("causes.resume", language, name=self.name))
        return " ".join(said)


def cause_of(folder: Folder) -> Cause | None:
    """Why a run failed or is lost; None: it did not.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    state = read_state(folder)
    if state.status not in ("failed", "lost"):
        return None
    error = state.error or {"key": LOST if state.status == "lost" else "unexpected", "facts": {}}
    can_resume = why_not_resumable(folder) is None
    return Cause(kind_of(error), error, shlex.quote(folder.name), state.kind == "train", can_resume)


def kind_of(error: dict[str, Any]) -> str:
    """The kind of an error as a state keeps it; one that only another version knows counts as a bug."""
    facts = error.get("facts") or {}
    key = facts.get("cause_key") or error["key"]  # of a process among several
    if key == LOST:
        return "killed"
    kind = kinds().get(key, "bug")
    if key == "unexpected":
        detail = str(facts.get("detail") or facts.get("cause", ""))
        return next((kind for kind, pattern in SAID if re.search(pattern, detail)), "bug")
    return kind


def last_lines(folder: Folder, count: int = LOG_LINES) -> str:
    """The end of a run's log."""
    return "\n".join(read_log(folder).strip().splitlines()[-count:])


@lru_cache(maxsize=1)
def kinds() -> dict[str, str]:
    """The kind of every error key of causes.yaml."""
    listed = yaml.safe_load(Path(__file__).with_name("causes.yaml").read_text(encoding="utf-8"))
    return {key: kind for kind, keys in listed.items() for key in keys}
