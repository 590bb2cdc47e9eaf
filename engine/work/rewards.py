"""What an answer is rewarded for in stage grpo: functions of a text, each giving a number for an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from engine.catalog.conversations import Example
from engine.options.jobs import TrainJob
from engine.work.reward import RewardModel

RewardFunction = Callable[..., list[float | None]]
"""As trl calls it: with lists of ``completions`` and of every column of the rows; one reward each, None for unknown."""


def exact_match(completion: str, answer: str) -> float:
    """1 for the row's own answer, white space around it aside; else 0."""
    return float(completion.strip() == answer.strip())


def json_valid(completion: str, answer: str) -> float:
    """1 for text that is JSON as a whole; else 0."""
    try:
        json.loads(completion)
    except ValueError:
        return 0.0
    return 1.0


def matches(pattern: str) -> Callable[[str, str], float]:
    """1 where a regular expression is found anywhere in the answer; else 0."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda completion, answer: float(compiled.search(completion) is not None)


def reward_functions(job: TrainJob) -> list[RewardFunction]:
    """The functions of ``reward_functions``, in that order, under the names that logs call them by."""
    plain = {"exact_match": exact_match, "json_valid": json_valid}
    found = []
    for name in job.reward_functions:
        kind, _, pattern = name.partition(":")
        found.append(_named(kind, plain.get(name) or matches(pattern)))
    return found


def _named(name: str, one: Callable[[str, str], float]) -> RewardFunction:
    def function(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
        return [one(*each) for each in zip(completions, answer, strict=True)]

    function.__name__ = name
    return function


def by_model(model: RewardModel) -> RewardFunction:
    """The scores of a reward model, on conversations as its chat template writes them."""

    def reward_model(completions: list[str], conversation: list[str], **columns: Any) -> list[float | None]:
        examples = []
        for completion, text in zip(completions, conversation, strict=True):
            said = json.loads(text)
            answer = {"role": "assistant", "content": completion}
            examples.append(Example((*said["messages"], answer), said["tools"]))
        return model.scores(examples)

    return reward_model
