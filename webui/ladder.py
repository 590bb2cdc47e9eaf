"""A run's ladder as HTML: a table of prompts and steps."""

from __future__ import annotations

from engine.runs.folder import Folder
from engine.runs.ladder import read_ladder
from engine.words import words
from webui.language import escaped

MOST_STEPS = 12
"""More columns cannot be read; of more steps the first, the last, and some at equal distances between are shown."""


def ladder_table(folder: Folder, language: str) -> str:
    """Empty where the run has none."""
    ladder = read_ladder(folder)
    if ladder is None:
        return ""
    steps = shown_steps(ladder.steps)
    prompt_word, step_word = (escaped(words(f"ladder.{name}", language)) for name in ("prompt", "step"))
    head = "".join(f'<th scope="col">{step_word} {step}</th>' for step in steps)
    rows = ""
    for prompt in ladder.prompts:
        cells = "".join(f"<td>{escaped(ladder.answers.get((prompt, step), '–'))}</td>" for step in steps)
        rows += f'<tr><th scope="row">{escaped(prompt)}</th>{cells}</tr>'
    title = escaped(words("ladder.title", language))
    return (
        f'<div class="scroller ladder"><table><caption>{title}</caption><thead><tr><th scope="col">{prompt_word}</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def shown_steps(steps: tuple[int, ...], most: int = MOST_STEPS) -> tuple[int, ...]:
    if len(steps) <= most:
        return steps
    return tuple(steps[number * (len(steps) - 1) // (most - 1)] for number in range(most))
