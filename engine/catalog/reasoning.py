"""Thoughts in the text of an answer: where they begin and end, whatever words a model puts around them."""

from __future__ import annotations

from typing import NamedTuple

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
"""What models write around a thought; the first pair is the one that training data has."""


class Parted(NamedTuple):
    """Args: thought: None, if there is none; answer: what comes behind it; is_thinking: the thought has not ended."""

    thought: str | None
    answer: str
    is_thinking: bool


def parted(text: str) -> Parted:
    """The thought at the beginning of an answer, and the answer itself. One that comes later is part of the answer."""
    begin = text.lstrip()
    for opening, closing in MARKS:
        if begin.startswith(opening):
            thought, found, answer = begin[len(opening) :].partition(closing)
            return Parted(thought.strip(), answer.lstrip("\n"), not found)
    return Parted(None, text, False)


def joined(thought: str | None, answer: str) -> str:
    """The text of an answer with its thought in front, as training data has it."""
    opening, closing = MARKS[0]
    return answer if thought is None else f"{opening}\n{thought}\n{closing}\n\n{answer}"


def opened(prompt: str) -> str:
    """The mark with which a chat template has already begun the thought, so that the model does not write it; or ""."""
    end = prompt.rstrip()
    return next((opening for opening, _ in MARKS if end.endswith(opening)), "")
