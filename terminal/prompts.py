"""``chat --prompts FILE [--compare A B …]``: what several models answer to the same prompts, as text and as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from engine.options.jobs import ChatJob
from engine.runs.folder import Folder
from engine.runs.prompts import Messages, Said, ask_all, read_prompts, sides_of
from engine.runs.record import write_text
from engine.words import words
from terminal.ladder import print_answers


def ask_prompts(job: ChatJob, language: str, ready: Callable[[Folder], None], note: Callable[[str], None]) -> None:
    """Ask, print every prompt with all answers to it, and write them down where the job says.

    What was answered before a failure or Ctrl-C is printed and written too.

    Raises:
        UserError: no such file or side, or a model failed.
    """
    prompts, sides = read_prompts(Path(job.prompts)), sides_of(job)
    found: list[Said] = []
    try:
        for said in ask_all(job, prompts, sides, language, ready):
            found.append(said)
            done = {"done": len(found), "total": len(prompts) * len(sides), "side": said.side or "–"}
            note(words("chat.asked", language, **done))
    finally:
        _print(prompts, found)
        if job.answers and found:
            _write(Path(job.answers), prompts, found)
            note(words("chat.answers_written", language, path=job.answers))


def _print(prompts: list[Messages], found: list[Said]) -> None:
    for number, messages in enumerate(prompts):
        answers = [(said.side, said.answer) for said in found if said.number == number]
        if answers:
            print_answers(messages[-1]["content"], answers)


def _write(path: Path, prompts: list[Messages], found: list[Said]) -> None:
    lines = [
        {
            "messages": prompts[said.number], "side": said.side, "answer": said.answer,
            "finish_reason": said.last.finish_reason, "tokens": said.last.tokens, "seconds": said.last.seconds,
            "prompt_tokens": said.last.prompt_tokens, "seed": said.seed,
        }
        for said in sorted(found, key=lambda said: said.number)
    ]  # fmt: skip
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
