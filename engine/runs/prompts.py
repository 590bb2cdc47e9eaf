"""A file of prompts, put to several models one after the other, all with the same seed."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.options.generation import Generation
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece, answer, load, unload
from engine.runs.folder import Folder
from engine.runs.sides import BASE, Side, find_side, trained_from

LOAD_S = 1800.0
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Said:
    """One answer of one side. Args: number: of the prompt, from 0; seed: with which it was sampled."""

    number: int
    side: str
    answer: str
    last: Piece
    seed: int


def read_prompts(path: Path) -> list[Messages]:
    """Conversations that wait for an answer: a line each, as plain text, or as JSON: a text, a list of turns, or an
    object with ``messages`` or ``prompt``.

    Raises:
        UserError: the file cannot be read, holds nothing, or a line of it is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise UserError("chat.prompts_unreadable", path=path, detail=error) from error
    is_json = path.suffix.lower() in (".jsonl", ".json")
    found = [_prompt(line, number, path, is_json) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UserError("chat.prompts_empty", path=path)
    return found


def _prompt(line: str, number: int, path: Path, is_json: bool) -> Messages:
    if not is_json:
        return [{"role": "user", "content": line.strip()}]
    try:
        given = json.loads(line)
    except ValueError as error:
        raise UserError("chat.prompts_line", path=path, line=number) from error
    if isinstance(given, dict):
        given = given.get("messages", given.get("prompt"))
    if isinstance(given, str) and given.strip():
        return [{"role": "user", "content": given}]
    is_talk = isinstance(given, list) and given and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in given
    )  # fmt: skip
    if not is_talk:
        raise UserError("chat.prompts_line", path=path, line=number)
    return given[:-1] if given[-1]["role"] == "assistant" and len(given) > 1 else given


def sides_of(job: ChatJob) -> list[Side | None]:
    """Who answers, in the order asked for; None: the model as the job loads it, where it names nobody.

    ``base`` is the model that the first of the others was trained from, unless the job names another than the default.

    Raises:
        UserError: one of them is not there.
    """
    default = ChatJob.model_fields["model_name_or_path"].default
    model = job.model_name_or_path if job.model_name_or_path != default else None
    found = [None if name == BASE else find_side(name, model) for name in job.compare]
    base = model or next(filter(None, (trained_from(side) for side in found if side)), None) or default
    return [find_side(BASE, base) if side is None else side for side in found] or [None]


def ask_all(
    job: ChatJob, prompts: list[Messages], sides: list[Side | None], language: str,
    ready: Callable[[Folder], None],
) -> Iterator[Said]:  # fmt: skip
    """Put every prompt to every side. Adapters of the same model share one worker; only one is loaded at a time.

    Args:
        ready: is called with each worker; returns when it can answer, or raises.

    Raises:
        UserError: a model cannot be loaded, or an answer failed.
    """
    seed = job.sampling_seed if job.sampling_seed is not None else secrets.randbelow(2**31)
    sampling = {name: getattr(job, name) for name in Generation.model_fields} | {"sampling_seed": seed}
    for model in dict.fromkeys(side and side.model for side in sides):
        named = {} if model is None else {"model_name_or_path": model, "adapter_name_or_path": ()}
        folder = load(job.model_copy(update=named), language, owner_pid=os.getpid())
        try:
            ready(folder)
            for side in sides:
                if (side and side.model) == model:
                    yield from _ask_one(folder, prompts, side, sampling)
        finally:
            unload(folder)


def _ask_one(folder: Folder, prompts: list[Messages], side: Side | None, sampling: dict[str, Any]) -> Iterator[Said]:
    for number, messages in enumerate(prompts):
        switched = None if side is None else side.adapter or BASE
        pieces = list(answer(folder, messages, side=switched, **sampling))
        text, seed = "".join(piece.text for piece in pieces), sampling["sampling_seed"]
        yield Said(number, side.name if side else "", text, pieces[-1], seed)
