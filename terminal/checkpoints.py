"""``runs checkpoints`` and ``runs resume``: what a training has saved, whether it is intact, and going on from it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from engine.catalog.devices import memory_text
from engine.errors import UserError
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.resume import resumed_job
from engine.runs.saved import Saved, saved, verify
from engine.runs.saved_words import held, outlook, standing
from engine.words import words
from terminal.names import find
from terminal.watch import start_and_watch


def checkpoints(arguments: list[str], language: str) -> int:
    """Print every checkpoint of a run. Returns the exit code: 1, if one is damaged."""
    name, said = _sort_out("checkpoints", arguments, switches=("verify", "json"))
    folder = find(name)
    kind = read_state(folder).kind
    if kind != "train":
        raise UserError("resume_only_training", kind=kind)
    found = saved(folder)
    if "verify" in said:
        for each in found:
            verify(each.path)
        found = saved(folder)
    if "json" in said:
        print(json.dumps([{**asdict(each), "path": str(each.path)} for each in found], ensure_ascii=False, indent=1))
        return 1 if any(each.damaged for each in found) else 0
    for each in found:
        print(_lines(each, language))
    if not found:
        print(words("checkpoints.none", language))
    print(outlook(folder, None, language).text)
    return 1 if any(each.damaged for each in found) else 0


def resume(arguments: list[str], language: str) -> int:
    """Go on with a run, and stay with it. Returns its exit code."""
    name, said = _sort_out("resume", arguments, valued=("checkpoint",))
    folder = find(name)
    step = _step(said.get("checkpoint"), folder)
    job = resumed_job(folder, step)
    print(outlook(folder, step, language).text)
    return start_and_watch(job, language)


def _lines(each: Saved, language: str) -> str:
    marks = [words(f"checkpoints.{name}", language) for name in ("best", "latest") if getattr(each, f"is_{name}")]
    scores = [("loss", each.loss), ("eval_loss", each.eval_loss)]
    facts = [
        f"{each.step:>8}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(each.saved_at)),
        f"{memory_text(each.size_bytes):>8}",
        *(f"{name} {value:.4f}" for name, value in scores if value is not None),
        ", ".join(marks),
    ]
    return f"{'  '.join(facts).rstrip()}\n{'':10}{held(each, language)}\n{'':10}{standing(each, language)}"


def _step(said: str | None, folder: Folder) -> int | None:
    """The step that was typed, as a number or as ``checkpoint-N``."""
    if said is None:
        return None
    number = said.removeprefix("checkpoint-")
    if not number.isdecimal():
        known = ", ".join(str(each.step) for each in saved(folder)) or "–"
        raise UserError("resume.no_such_checkpoint", name=folder.name, step=said, known=known)
    return int(number)


def _sort_out(
    command: str, arguments: list[str], valued: tuple[str, ...] = (), switches: tuple[str, ...] = ()
) -> tuple[str, dict[str, str]]:
    """The name of the run, and what the flags say."""
    names, said, left = [], {}, list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            names.append(word)
        elif flag in switches:
            said[flag] = ""
        elif flag not in valued:
            raise UserError("unexpected_word", word=word)
        elif not equals and not left:
            raise UserError("flag_without_value", flag=flag)
        else:
            said[flag] = value if equals else left.pop(0)
    if not names:
        raise UserError("run_name_missing", command=command)
    if len(names) > 1:
        raise UserError("unexpected_word", word=names[1])
    return names[0], said
