"""``runs checkpoints`` and ``runs resume``: what a training has saved, whether it is intact, and going on from it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from engine.catalog.devices import memory_text
from engine.errors import UserError
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.resume import point_of, resumed_job, why_not_resumable
from engine.runs.saved import Saved, saved, verify
from engine.words import words
from terminal.names import find
from terminal.watch import start_and_watch


def checkpoints(arguments: list[str], language: str) -> int:
    """Print every checkpoint of a run. Returns the exit code: 1, if one is damaged."""
    name, said = _sort_out("checkpoints", arguments, switches=("verify", "json"))
    folder = find(name)
    if read_state(folder).kind != "train":
        raise UserError("resume_only_training", kind=read_state(folder).kind)
    found = saved(folder)
    if "verify" in said:
        for each in found:
            verify(each.path)
        found = saved(folder)
    if "json" in said:
        print(json.dumps([{**asdict(each), "path": str(each.path)} for each in found], ensure_ascii=False, indent=1))
    else:
        for each in found:
            print(_line(each, language))
        if not found:
            print(words("checkpoints.none", language))
        print(_outlook(folder, language))
    return 1 if any(each.damaged for each in found) else 0


def resume(arguments: list[str], language: str) -> int:
    """Go on with a run, and stay with it. Returns its exit code."""
    name, said = _sort_out("resume", arguments, valued=("checkpoint",))
    folder, step = find(name), _step(said.get("checkpoint"))
    job = resumed_job(folder, step)
    point = point_of(folder, step)
    key = "branches" if point.is_branch else "goes_on" if point.step else "begins_anew"
    print(words(f"checkpoints.{key}", language, step=point.step, name=folder.name))
    return start_and_watch(job, language)


def _line(each: Saved, language: str) -> str:
    marks = [words(f"checkpoints.{name}", language) for name in ("best", "latest") if getattr(each, f"is_{name}")]
    scores = [
        f"{short} {value:.4f}" for short, value in (("loss", each.loss), ("eval_loss", each.eval_loss))
        if value is not None
    ]  # fmt: skip
    saved_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.saved_at))
    head = f"{each.step:>8}  {saved_at}  {memory_text(each.size_bytes):>9}  {'  '.join(scores)}".rstrip()
    return f"{head}{'  * ' if marks else ''}{', '.join(marks)}\n{'':10}{held(each, language)}; {state(each, language)}"


def held(each: Saved, language: str) -> str:
    """What is in a checkpoint, in words."""
    names = []
    for name in each.holds:
        key = "random_of" if name == "random" and each.ranks > 1 else name
        names.append(words(f"checkpoints.in_it.{key}", language, ranks=each.ranks))
    return ", ".join(names) or "–"
