"""A run's ladder as text: each prompt, and under it what every checkpoint answered."""

from __future__ import annotations

from engine.runs.folder import Folder
from engine.runs.ladder import read_ladder
from engine.words import words


def print_ladder(folder: Folder, language: str) -> None:
    """Print it; nothing, where the run has none."""
    ladder = read_ladder(folder)
    if ladder is None:
        return
    print(f"## {words('ladder.title', language)}\n")
    for prompt in ladder.prompts:
        answers = [(str(step), ladder.answers.get((prompt, step))) for step in ladder.steps]
        print_answers(prompt, [(step, answer) for step, answer in answers if answer is not None])


def print_answers(prompt: str, answers: list[tuple[str, str]]) -> None:
    """A prompt, and under it what each gave as an answer, one below the other."""
    print("> " + prompt.strip().replace("\n", "\n> ") + "\n")
    width = max((len(name) for name, _ in answers), default=0)
    for name, answer in answers:
        print(f"    {name:>{width}}  " + answer.strip().replace("\n", "\n" + " " * (width + 6)))
    print()
