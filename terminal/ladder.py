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
    width = len(str(ladder.steps[-1]))
    for prompt in ladder.prompts:
        print(f"> {prompt}\n")
        for step in ladder.steps:
            answer = ladder.answers.get((prompt, step))
            if answer is not None:
                print(f"    {step:>{width}}  " + answer.strip().replace("\n", "\n" + " " * (width + 6)))
        print()
